//! Builds and reads bootstrap.iso and appliance.iso.
