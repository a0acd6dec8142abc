//! Sockets in other network namespaces, and the socket options that std does not offer.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

use crate::check;
use crate::process::{NEWNET, setns, unshare};

/// Runs `body` in a thread of its own that has entered a network namespace.
///
/// Sockets that it makes stay in that namespace, whoever uses them later.
///
/// # Errors
/// When the namespace cannot be entered, or what `body` returns.
pub fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    body: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns, NEWNET)?;
            body()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// Makes a network namespace that lives as long as its descriptor (and what is inside).
///
/// # Errors
/// `EPERM`, or what opening the namespace says.
pub fn new_namespace() -> io::Result<OwnedFd> {
    let thread = std::thread::Builder::new().spawn(|| {
        unshare(NEWNET)?;
        // SAFETY: gettid has no arguments.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) };
        let file = std::fs::File::open(format!("/proc/self/task/{tid}/ns/net"))?;
        Ok(OwnedFd::from(file))
    })?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn set_int(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    check(ret).map(drop)
}

/// Lets a socket be bound to, and accept for, addresses that are not the machine's.
///
/// # Errors
/// `EPERM` without `NET_ADMIN`.
pub fn set_transparent(socket: impl AsFd) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_IP, libc::IP_TRANSPARENT, 1)
}

/// Lets several sockets have one address.
///
/// # Errors
/// What setsockopt says.
pub fn set_reuse_address(socket: impl AsFd) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

/// Lets a socket send to broadcast addresses.
///
/// # Errors
/// What setsockopt says.
pub fn set_broadcast(socket: impl AsFd) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BROADCAST, 1)
}

/// Ties a socket to one interface.
///
/// # Errors
/// `ENODEV` when there is none of that name.
pub fn bind_to_device(socket: impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    let ret = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as u32,
        )
    };
    check(ret).map(drop)
}

/// Kind of an IPv4 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// Makes an IPv4 socket (close-on-exec, non-blocking) that is not bound yet.
///
/// # Errors
/// What socket says.
pub fn socket(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Datagram => libc::SOCK_DGRAM,
    };
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is involved.
    let fd = check(unsafe { libc::socket(libc::AF_INET, kind | flags, 0) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

fn from_sockaddr(address: &libc::sockaddr_in) -> SocketAddrV4 {
    SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)),
        u16::from_be(address.sin_port),
    )
}

/// Binds a socket.
///
/// # Errors
/// What bind says.
pub fn bind(socket: impl AsFd, address: SocketAddrV4) -> io::Result<()> {
    let raw = sockaddr(address);
    // SAFETY: pointer and length describe `raw`.
    let ret = unsafe {
        libc::bind(
            socket.as_fd().as_raw_fd(),
            (&raw const raw).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        )
    };
    check(ret).map(drop)
}

/// Makes a bound stream socket accept connections.
///
/// # Errors
/// What listen says.
pub fn listen(socket: impl AsFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::listen(socket.as_fd().as_raw_fd(), backlog) }).map(drop)
}

/// Connects a datagram socket to its peer.
///
/// # Errors
/// What connect says.
pub fn connect(socket: impl AsFd, address: SocketAddrV4) -> io::Result<()> {
    let raw = sockaddr(address);
    // SAFETY: pointer and length describe `raw`.
    let ret = unsafe {
        libc::connect(
            socket.as_fd().as_raw_fd(),
            (&raw const raw).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        )
    };
    check(ret).map(drop)
}

/// Makes datagrams carry the address that they were sent to.
///
/// # Errors
/// What setsockopt says.
pub fn set_receive_original_destination(socket: impl AsFd) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)
}

/// A datagram as [`receive_with_destination`] returns it.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// How many bytes it has.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddrV4,
    /// Whom it was sent to.
    pub to: SocketAddrV4,
}

/// Receives one datagram with the address that it was sent to.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` when the address is missing.
pub fn receive_with_destination(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    // SAFETY: plain data, for which zero is valid.
    let mut from: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0u64; 16];
    // SAFETY: plain data, for which zero is valid.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_name = (&raw mut from).cast();
    msg.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = size_of_val(&control) as _;
    // SAFETY: `msg` and all that it points to live across the call.
    let n = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut msg, 0) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut to = None;
    // SAFETY: the kernel filled `control` with well-formed headers, which the macros walk; an
    // IP_ORIGDSTADDR message holds one sockaddr_in.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const msg);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_IP && (*header).cmsg_type == libc::IP_ORIGDSTADDR {
                let address = libc::CMSG_DATA(header)
                    .cast::<libc::sockaddr_in>()
                    .read_unaligned();
                to = Some(from_sockaddr(&address));
            }
            header = libc::CMSG_NXTHDR(&raw const msg, header);
        }
    }
    let to = to.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Datagram {
        length: n as usize,
        from: from_sockaddr(&from),
        to,
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_made_inside_a_namespace_is_bound_there_and_not_here() {
        let netns = new_namespace().unwrap();
        let inner = inside(netns.as_fd(), || {
            let mut netlink = crate::netlink::Netlink::open()?;
            let lo = netlink.index("lo")?;
            netlink.set_up(lo, true)?;
            UdpSocket::bind("127.0.0.1:0")
        })
        .unwrap();
        let address = inner.local_addr().unwrap();
        // The same address is free here.
        let outer = UdpSocket::bind(address).unwrap();
        inner.send_to(b"in", address).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(inner.recv(&mut buffer).unwrap(), 2);
        outer.set_nonblocking(true).unwrap();
        assert!(outer.recv(&mut buffer).is_err());
    }
}
