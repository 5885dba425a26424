"""Resources that all backends of this package share: supervisor, session directory, control groups, ports."""
