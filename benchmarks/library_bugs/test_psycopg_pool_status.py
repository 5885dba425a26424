from psycopg_pool import ConnectionPool


def test_a_check_that_fails_costs_no_connection(resilience):
    def check(connection):
        connection.execute("select 1")

    with ConnectionPool(resilience.postgres.url, min_size=1, max_size=1, timeout=3, check=check) as pool:

        def one():
            with pool.connection() as connection:
                return connection.execute("select 2").fetchone()

        with resilience.steady(one):
            resilience.postgres.on("select", matching="1").first(1).error("57014")
