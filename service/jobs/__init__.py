"""Jobs: the queue with its journal, the worker, the campaign processor and the cadence scheduler."""
