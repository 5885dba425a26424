// Use Postgres by JDBC: java -cp postgresql.jar Jdbc.java URL
import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

class Jdbc {
    interface Work { void run() throws SQLException; }

    static void failing(Work work) {
        try {
            work.run();
        } catch (SQLException expected) {
            return;
        }
        throw new IllegalStateException("expected an error");
    }

    static void read(ResultSet rows) throws SQLException {
        while (rows.next()) rows.getString(1);
    }

    static void insert(Connection connection, int id) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO story_jdbc VALUES (?, ?)")) {
            insert.setInt(1, id);
            insert.setString(2, "name " + id);
            insert.executeUpdate();
        }
    }

    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        String[] account = uri.getUserInfo().split(":");
        Properties properties = new Properties();
        properties.setProperty("user", account[0]);
        properties.setProperty("password", account[1]);
        String url = "jdbc:postgresql://" + uri.getHost() + ":" + uri.getPort();
        try (Connection connection = DriverManager.getConnection(url + uri.getPath(), properties)) {
            Statement statement = connection.createStatement();
            statement.execute("DROP TABLE IF EXISTS story_jdbc; CREATE TABLE story_jdbc (id int PRIMARY KEY, name text)");
            for (int id = 0; id < 8; id++) insert(connection, id); // the driver names the statement after the fifth
            read(statement.executeQuery("SELECT n, repeat('x', 40) FROM generate_series(1, 300) AS n"));
            read(statement.executeQuery("SELECT repeat('x', 20000)"));
            try (PreparedStatement batch = connection.prepareStatement("INSERT INTO story_jdbc VALUES (?, ?)")) {
                for (int id = 10; id < 20; id++) {
                    batch.setInt(1, id);
                    batch.setString(2, "in a batch");
                    batch.addBatch();
                }
                batch.executeBatch();
            }
            connection.setAutoCommit(false);
            statement.executeUpdate("UPDATE story_jdbc SET name = 'committed' WHERE id = 1");
            connection.commit();
            statement.setFetchSize(50);
            read(statement.executeQuery("SELECT n FROM generate_series(1, 120) AS n"));
            connection.commit();
            failing(() -> insert(connection, 1));
            failing(() -> statement.executeQuery("SELECT 1"));
            connection.rollback();
            connection.setAutoCommit(true);
            statement.setQueryTimeout(1);
            failing(() -> statement.executeQuery("SELECT pg_sleep(10)"));
        }
        failing(() -> DriverManager.getConnection(url + "/missing", properties));
        properties.setProperty("preferQueryMode", "simple");
        try (Connection connection = DriverManager.getConnection(url + uri.getPath(), properties)) {
            insert(connection, 30);
        }
    }
}
