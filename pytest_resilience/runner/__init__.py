"""Play a schedule: clients work, faults strike and heal among their operations, and everything is recorded in a history."""
