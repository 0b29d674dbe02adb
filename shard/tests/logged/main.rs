//! Logged events on meshes of shards: whoever follows gets everything once and in order, however letters are late.

mod disk;
mod model;
mod promises;
mod tables;
mod troubles;
mod world;
