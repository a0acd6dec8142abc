//! A vSphere simulator whose powered-on VMs really run.

fn main() {
    // First of all: in the helper process nothing else may run.
    simulator::engine::namespace::helper::helper_main();
}
