//! Tests of create's checks and merging, without any actor.
