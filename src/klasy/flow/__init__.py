"""Which instructions access the members of structs: types propagated over live machine code."""
