//! A vSphere simulator whose powered-on VMs really run.
