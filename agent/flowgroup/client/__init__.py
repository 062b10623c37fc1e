"""What a flow author imports."""
