//! Supervision strategies as data: child specifications, restart decisions, back-off.
