//! Each row of the table, called from both sides of its change.
