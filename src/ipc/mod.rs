//! Memory shared with one worker: one implementation for both sides.
