//! The binary itself: what it says, what it refuses and how, and how it ends.
#![forbid(unsafe_code)]

mod caller;
mod configuration;
mod descriptors;
mod ending;
mod listening;
mod logging;
mod process;
mod reloading;
mod services;
