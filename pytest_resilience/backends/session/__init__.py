"""Resources that the built-in backends share."""
