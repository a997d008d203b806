"""Where a corpus comes from: a folder, a table, a prepared dataset, a mixture."""
