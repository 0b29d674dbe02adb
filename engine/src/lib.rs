//! One core's hands: io_uring, buffers, sockets, files, WebSocket, timers, mail between cores. It knows no FLUXAR.
//!
//! Bytes come in through a [`driver::Driver`] (the kernel's io_uring, or the simulation), become events in the
//! [`reactor::Reactor`], and leave as gather lists. `examples/echo.rs` is the whole of it in one file.
#![deny(unsafe_code)]

pub mod dial;
pub mod disk;
pub mod driver;
pub mod gather;
pub mod limits;
pub mod listener;
pub mod mail;
pub mod paged;
pub mod probe;
pub mod reactor;
pub mod rlimit;
pub mod sim;
pub mod timer;
pub mod uring;
pub mod ws;
