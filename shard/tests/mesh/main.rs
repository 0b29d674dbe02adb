//! Meshes of shards against naive models: random verbs, letters that arrive late, and in the end nothing left.

mod absence;
mod calls;
mod fleets;
mod limits;
mod model;
mod promises;
mod runs;
mod scarce;
mod streams;
mod unheard;
mod world;
