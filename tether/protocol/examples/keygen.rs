//! Timing of the first key.
fn main() {
    let t = std::time::Instant::now();
    let i = tether_protocol::session::Identity::generate().unwrap();
    println!("generate {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let _ = tether_protocol::session::Identity::generate().unwrap();
    println!("second {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let _ = tether_protocol::session::SessionGuest::new(&i, "x", "y").unwrap();
    println!("session {:?}", t.elapsed());
}
