"""HTTP: routes, error answers, load shedding and the limits of connections."""
