// Play scenarios by JDBC and HikariCP: java -cp JARS Jdbc.java URL
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;

class Jdbc {
    static final String INSERT = "INSERT INTO acts VALUES (1)", NEXT = "SELECT 1";
    static final String READ = "SELECT n FROM generate_series(1, 5) AS n";
    static final Properties PROPERTIES = new Properties();
    static String url;

    interface Work { void run() throws SQLException; }

    static String quoted(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char each : String.valueOf(text).toCharArray()) {
            json.append(each < ' ' || each == '"' || each == '\\' ? String.format("\\u%04x", (int) each) : each);
        }
        return json.append('"').toString();
    }

    static String attempt(Work work) {
        try {
            work.run();
        } catch (SQLException error) {
            String code = error.getSQLState() == null ? "" : error.getSQLState();
            return "{\"kind\":" + quoted(error.getClass().getSimpleName()) + ",\"code\":" + quoted(code)
                + ",\"text\":" + quoted(error.getMessage()) + "}";
        }
        return "null";
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            if (statement.execute(sql)) {
                ResultSet rows = statement.getResultSet();
                while (rows.next()) rows.getString(1);
            }
        }
    }

    static void connect() throws SQLException {
        DriverManager.getConnection(url, PROPERTIES).close();
    }

    static String on(Connection connection, String scenario) throws SQLException {
        connection.setAutoCommit(scenario.equals("alone") || scenario.equals("read"));
        String raised = attempt(() -> execute(connection, scenario.equals("read") ? READ : INSERT));
        if (scenario.equals("commit")) raised = attempt(connection::commit);
        String next = attempt(() -> execute(connection, NEXT));
        if (scenario.equals("transaction")) attempt(raised.equals("null") ? connection::commit : connection::rollback);
        return "\"raised\":" + raised + ",\"next\":" + next;
    }

    static String play(String scenario) throws SQLException {
        if (scenario.equals("version")) return "{\"version\":" + quoted("pgjdbc " + org.postgresql.Driver.getVersion()) + "}";
        if (scenario.equals("connect")) {
            return "{\"raised\":" + attempt(Jdbc::connect) + ",\"checkout\":" + attempt(Jdbc::connect) + "}";
        }
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url);
        config.setDataSourceProperties(PROPERTIES);
        config.setMaximumPoolSize(1);
        config.setConnectionTimeout(1000);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            Connection connection = pool.getConnection();
            String answer = on(connection, scenario);
            attempt(connection::close);
            String checkout = attempt(() -> {
                try (Connection again = pool.getConnection()) {
                    execute(again, NEXT);
                }
            });
            return "{" + answer + ",\"checkout\":" + checkout + "}";
        }
    }

    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        String[] account = uri.getUserInfo().split(":");
        PROPERTIES.setProperty("user", account[0]);
        PROPERTIES.setProperty("password", account[1]);
        PROPERTIES.setProperty("socketTimeout", "1");
        PROPERTIES.setProperty("connectTimeout", "1");
        url = "jdbc:postgresql://" + uri.getHost() + ":" + uri.getPort() + uri.getPath();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) System.out.println(play(line.trim()));
    }
}
