"""What a network is and what it looks at: pure functions from modules and arrays to tables and figures."""
