"""Advice in C to the text for a C compiler: the declarations that it needs, and a function for each. Text only."""
