"""One module a model set, all behind one interface."""
