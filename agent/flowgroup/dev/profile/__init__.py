"""`make profile`: where each millisecond of a warm run and of a task goes, into `docs/profile`."""
