"""Questions and experiments for clients, libraries and apps in the test process."""
