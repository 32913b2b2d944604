//! What the tests are made of, and the tests, one concern each.

mod by_slot;
mod connection;
mod context;
mod lab;
mod segment;
mod working_memory;

mod adopted;
mod again;
mod checksum;
mod choice;
mod cost;
mod drops;
mod fuzz;
mod headroom;
mod hold;
mod icmp;
mod load;
mod mac;
mod malformed;
mod md5;
mod mss;
mod padding;
mod phases;
mod preempted;
mod rekey;
mod replaced;
mod reset;
mod rewrite;
mod sne;
mod switching;
mod translated;
mod trial;
mod tunnel;
mod vectors;
mod wire;
