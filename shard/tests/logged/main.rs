//! Logged events on meshes of shards: whoever follows gets everything once and in order, however letters are late.

mod cursors;
mod dice;
mod disk;
mod model;
mod order;
mod promises;
mod tables;
mod troubles;
mod world;
