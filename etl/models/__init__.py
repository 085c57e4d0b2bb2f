"""Model sets, one per folder, behind one interface."""
