//! The guest of the engine's tests: PID 1 that does what a script in guestinfo says.
//!
//! The script is `guestinfo.probe`, one command per line. Each command's outcome goes to
//! `guestinfo.vice..out.<n>`, and `guestinfo.vice..done` is set at the end; then it waits.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use tether_sys::netlink::{Address, Netlink, Route};
use tether_sys::{mount, power, process};

/// How long anything is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

fn main() {
    let mut rpci = UnixStream::connect("/dev/vmware/rpci").expect("no RPCI");
    let script = call(&mut rpci, "info-get guestinfo.probe").unwrap_or_default();
    for (number, line) in script.lines().enumerate() {
        let outcome = match run(line) {
            Ok(text) if text.is_empty() => "ok".to_owned(),
            Ok(text) => text,
            Err(e) => e
                .raw_os_error()
                .map_or_else(|| format!("error {e}"), errno_name),
        };
        let message = format!("info-set guestinfo.vice..out.{number} {outcome}");
        call(&mut rpci, &message).expect("no answer");
    }
    call(&mut rpci, "info-set guestinfo.vice..done true").expect("no answer");
    loop {
        // Orphans come to PID 1; there is nothing else to do.
        let _ = process::wait(-1);
        std::thread::park_timeout(DEADLINE);
    }
}

fn errno_name(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".into(),
        libc::EACCES => "EACCES".into(),
        libc::EROFS => "EROFS".into(),
        libc::ENOENT => "ENOENT".into(),
        libc::ESRCH => "ESRCH".into(),
        libc::ECONNREFUSED => "ECONNREFUSED".into(),
        libc::ECONNRESET => "ECONNRESET".into(),
        other => format!("errno {other}"),
    }
}

fn exchange(stream: &mut UnixStream, message: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(&(message.len() as u32).to_be_bytes())?;
    stream.write_all(message)?;
    read_message(stream)
}

fn read_message(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn call(stream: &mut UnixStream, message: &str) -> io::Result<String> {
    let reply = exchange(stream, message.as_bytes())?;
    let text = String::from_utf8_lossy(&reply).into_owned();
    text.strip_prefix("1 ")
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(text))
}

fn run(line: &str) -> io::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = |()| String::new();
    match words.as_slice() {
        ["exit", code] => std::process::exit(code.parse().unwrap_or(1)),
        ["poweroff"] => power::reboot(power::Power::Off).map(done),
        ["reboot"] => power::reboot(power::Power::Restart).map(done),
        ["mount", kind, source, target, data @ ..] => {
            fs::create_dir_all(target)?;
            let (source, target) = (Some(Path::new(source)), Path::new(target));
            mount::mount(source, target, Some(kind), 0, data.first().copied()).map(done)
        }
        ["umount", target] => mount::umount(Path::new(target), 0).map(done),
        ["remount-bind-rw", target] => {
            let flags = mount::MS_REMOUNT | mount::MS_BIND;
            mount::mount(None, Path::new(target), None, flags, None).map(done)
        }
        ["remount-rw", target] => {
            mount::mount(None, Path::new(target), None, mount::MS_REMOUNT, None).map(done)
        }
        ["read", path] => {
            let mut text = vec![0; 64];
            let length = File::open(path)?.read(&mut text)?;
            Ok(format!(
                "read {}",
                String::from_utf8_lossy(&text[..length]).trim_end_matches(['\0', '\n'])
            ))
        }
        ["write", path, text @ ..] => {
            let text = text.join(" ");
            File::options()
                .write(true)
                .open(path)?
                .write_all(text.as_bytes())
                .map(done)
        }
        ["set-clock"] => set_clock().map(done),
        ["leave-root", path] => leave_root(path),
        ["append", path, text] => {
            let line = format!("{text}\n");
            File::options()
                .append(true)
                .open(path)?
                .write_all(line.as_bytes())
                .map(done)
        }
        ["create", path] => File::create(path).map(|_| String::new()),
        ["node", kind, major, minor] => node(kind, number(major)?, number(minor)?),
        ["ls", path] => {
            let mut names: Vec<_> = fs::read_dir(path)?
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .collect();
            names.sort();
            Ok(format!("ls {}", names.join(" ")))
        }
        ["find", dir, name] => Ok(format!("found {}", find(Path::new(dir), name, 0))),
        ["wait-for", path] => until(|| Path::new(path).exists()).map(done),
        ["wait-gone", path] => until(|| !Path::new(path).exists()).map(done),
        ["echo", port] => echo(port).map(done),
        ["address", name, address, prefix] => configure(name, address, number(prefix)? as u8, None),
        ["address", name, address, prefix, gateway] => {
            configure(name, address, number(prefix)? as u8, Some(parse(gateway)?))
        }
        ["dhcp", name] => dhcp(name),
        ["fetch", address] => {
            let mut stream =
                TcpStream::connect_timeout(&parse::<SocketAddrV4>(address)?.into(), DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(format!("got {text}"))
        }
        ["ask-udp", address, text] => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(DEADLINE))?;
            socket.connect(parse::<SocketAddrV4>(address)?)?;
            socket.send(text.as_bytes())?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer)?;
            Ok(format!(
                "got {}",
                String::from_utf8_lossy(&answer[..length])
            ))
        }
        ["resolve", server, name] => resolve(parse(server)?, name),
        ["abstract", name] => {
            UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?).map(|_| String::new())
        }
        ["signal", pid] => process::kill(number(pid)? as i32, 0).map(done),
        ["tclo"] => {
            std::thread::spawn(tclo);
            Ok(String::new())
        }
        other => Err(io::Error::other(format!("unknown command {other:?}"))),
    }
}

fn number(text: &str) -> io::Result<u32> {
    parse(text)
}

fn parse<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse()
        .map_err(|_| io::Error::other(format!("bad argument {text}")))
}

fn until(condition: impl Fn() -> bool) -> io::Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > DEADLINE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

fn node(kind: &str, major: u32, minor: u32) -> io::Result<String> {
    let dir = File::open("/dev")?;
    let mode = if kind == "b" {
        libc::S_IFBLK
    } else {
        libc::S_IFCHR
    } | 0o600;
    let _ = mount::unlink_at(dir.as_fd(), "probe-node");
    mount::mknod_at(
        dir.as_fd(),
        "probe-node",
        mode,
        mount::makedev(major, minor),
    )?;
    let mut bytes = [0; 16];
    File::open("/dev/probe-node")?.read_exact(&mut bytes)?;
    Ok(format!("read {}", String::from_utf8_lossy(&bytes)))
}

/// Sets the clock's tick to what it is: nothing changes, but it takes the right to change it.
fn set_clock() -> io::Result<()> {
    const ADJ_TICK: u32 = 0x4000;
    // SAFETY: plain data, for which zero is valid.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    for modes in [0, ADJ_TICK] {
        clock.modes = modes;
        // SAFETY: `clock` is valid for reading and writing.
        if unsafe { libc::adjtimex(&raw mut clock) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Climbs out of a root that was only set by chroot, and reads a file there.
fn leave_root(path: &str) -> io::Result<String> {
    let path = path.to_owned();
    let climb = move || -> io::Result<String> {
        process::unshare_fs()?;
        let root = File::open("/")?;
        fs::create_dir_all("/tmp/jail")?;
        process::chroot(Path::new("/tmp/jail"))?;
        process::fchdir(root.as_fd())?;
        for _ in 0..32 {
            let up = File::open("..")?;
            process::fchdir(up.as_fd())?;
        }
        process::chroot(Path::new("."))?;
        Ok(format!("read {}", fs::read_to_string(path)?))
    };
    std::thread::spawn(climb)
        .join()
        .map_err(|_| io::Error::other("panic"))?
}

fn find(dir: &Path, name: &str, depth: u32) -> usize {
    if depth > 6 {
        return 0;
    }
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .fold(0, |sum, entry| {
            let below = match entry.file_type() {
                Ok(kind) if kind.is_dir() => find(&entry.path(), name, depth + 1),
                _ => 0,
            };
            sum + below + usize::from(entry.file_name() == name)
        })
}

/// Answers every line with the same in capitals, over a line that may be cut.
fn echo(port: &str) -> io::Result<()> {
    let path = format!("/dev/{port}");
    fs::metadata(&path)?;
    std::thread::spawn(move || {
        loop {
            let Ok(mut stream) = UnixStream::connect(&path) else {
                continue;
            };
            let mut buffer = [0; 4096];
            while let Ok(length) = stream.read(&mut buffer) {
                let answer = buffer[..length].to_ascii_uppercase();
                if length == 0 || stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    Ok(())
}

fn tclo() {
    let Ok(mut stream) = UnixStream::connect("/dev/vmware/tclo") else {
        return;
    };
    while let Ok(command) = read_message(&mut stream) {
        let reply = b"OK ";
        let _ = stream.write_all(&(reply.len() as u32).to_be_bytes());
        let _ = stream.write_all(reply);
        match command.as_slice() {
            b"OS_Halt" => drop(power::reboot(power::Power::Off)),
            b"OS_Reboot" => drop(power::reboot(power::Power::Restart)),
            _ => {}
        }
    }
}

fn configure(
    name: &str,
    address: &str,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
) -> io::Result<String> {
    let mut netlink = Netlink::open()?;
    let lo = netlink.index("lo")?;
    netlink.set_up(lo, true)?;
    let index = netlink.index(name)?;
    netlink.set_up(index, true)?;
    netlink.add_address(&Address {
        index,
        ip: parse::<Ipv4Addr>(address)?.into(),
        prefix,
    })?;
    if let Some(gateway) = gateway {
        netlink.add_route(&Route {
            gateway: Some(gateway.into()),
            ..Route::default()
        })?;
    }
    let link = netlink.link(name)?.unwrap_or_default();
    let mac = link
        .mac
        .unwrap_or_default()
        .map(|b| format!("{b:02x}"))
        .join(":");
    Ok(format!("mac {mac}"))
}

/// Asks for an address, takes it, and tells it.
fn dhcp(name: &str) -> io::Result<String> {
    let mut netlink = Netlink::open()?;
    let link = netlink.link(name)?.ok_or(io::ErrorKind::NotFound)?;
    netlink.set_up(link.index, true)?;
    let socket = tether_sys::net::socket(tether_sys::net::Kind::Datagram)?;
    process::set_nonblocking(&socket, false)?;
    tether_sys::net::set_broadcast(&socket)?;
    tether_sys::net::bind_to_device(&socket, name)?;
    tether_sys::net::bind(&socket, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    let ask = |kind: u8, wanted: Option<[u8; 4]>| -> io::Result<Vec<u8>> {
        let mut message = vec![0; 236];
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[10] = 0x80;
        message[28..34].copy_from_slice(&link.mac.unwrap_or_default());
        message.extend_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
        if let Some(ip) = wanted {
            message.extend_from_slice(&[50, 4]);
            message.extend_from_slice(&ip);
        }
        message.push(255);
        // As every client does: ask again, the link may have come up a moment ago.
        let mut reply = vec![0; 1500];
        let end = std::time::Instant::now() + DEADLINE;
        loop {
            socket.send_to(&message, "255.255.255.255:67")?;
            match socket.recv(&mut reply) {
                Err(e)
                    if e.kind() == io::ErrorKind::WouldBlock && std::time::Instant::now() < end => {
                }
                Err(e) => return Err(e),
                Ok(length) => {
                    reply.truncate(length);
                    return Ok(reply);
                }
            }
        }
    };
    let offer = ask(1, None)?;
    let ip: [u8; 4] = offer[16..20].try_into().unwrap_or_default();
    let ack = ask(3, Some(ip))?;
    let gateway: [u8; 4] = ack[20..24].try_into().unwrap_or_default();
    let (ip, gateway) = (Ipv4Addr::from(ip), Ipv4Addr::from(gateway));
    configure(name, &ip.to_string(), 22, Some(gateway))?;
    Ok(format!("{ip} via {gateway}"))
}

fn resolve(server: Ipv4Addr, name: &str) -> io::Result<String> {
    let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.send_to(&query, (server, 53))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let ip: [u8; 4] = answer[length - 4..length].try_into().unwrap_or_default();
    Ok(Ipv4Addr::from(ip).to_string())
}
