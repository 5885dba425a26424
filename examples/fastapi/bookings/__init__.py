"""Bookings of seats. A seat is booked once, whatever happens to Postgres and Redis meanwhile."""
