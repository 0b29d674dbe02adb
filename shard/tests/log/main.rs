//! A core's log on a disk that does things late, in any order, badly, or not at all: what was acknowledged is there, in order,
//! once, whatever happens; what is read is what was committed.

mod chance;
mod cores;
mod crashes;
mod fake_disk;
mod indices;
mod keeping;
mod removals;
mod troubles;
mod world;
