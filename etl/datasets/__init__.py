"""One reader a dataset, all behind one interface, and the decoding of their images and videos."""
