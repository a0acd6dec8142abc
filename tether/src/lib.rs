//! PID 1 of every containerVM and of the appliance.
