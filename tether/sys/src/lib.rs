//! System calls that the guest and the namespace engine share; the only unsafe code.
