//! Sessions against BoringSSL's own client, in memory; the parts of the story are in the submodules.

mod certificates;
mod handshake;
mod records;
mod resumption;
mod world;
