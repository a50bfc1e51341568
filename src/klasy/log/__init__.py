"""Reading and rendering what woven aspects logged."""
