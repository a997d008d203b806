"""The commands: each parses its flags, calls one function and turns errors into an exit code."""
