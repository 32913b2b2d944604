//! Octets from and for the wire, where a library expects a stream.

use std::io::{self, Read, Write};

/// Two queues of octets. Reading from an empty one would block, writing never does.
#[derive(Default)]
pub struct Pipe {
    incoming: Vec<u8>,
    /// So many octets of `incoming` were read.
    read: usize,
    outgoing: Vec<u8>,
}

impl Pipe {
    /// Adds octets that came from the wire.
    pub fn push(&mut self, octets: &[u8]) {
        self.incoming.extend_from_slice(octets);
    }

    /// Octets for the wire; each once.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Forgets what was not read.
    pub fn clear_input(&mut self) {
        (self.incoming, self.read) = (Vec::new(), 0);
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.incoming[self.read..];
        if left.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = left.len().min(buffer.len());
        buffer[..len].copy_from_slice(&left[..len]);
        self.read += len;
        if self.read == self.incoming.len() {
            // Nothing is kept for a channel that rests.
            self.clear_input();
        }
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_out_in_order_and_an_empty_pipe_would_block() {
        let mut pipe = Pipe::default();
        let mut buffer = [0; 3];
        assert_eq!(pipe.read(&mut buffer).expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        pipe.push(b"abc");
        pipe.push(b"de");
        assert_eq!((pipe.read(&mut buffer).expect("three"), &buffer), (3, b"abc"));
        pipe.push(b"f");
        assert_eq!((pipe.read(&mut buffer).expect("the rest"), &buffer), (3, b"def"));
        assert_eq!(pipe.incoming.capacity(), 0);
        assert_eq!(pipe.read(&mut buffer).expect_err("empty").kind(), io::ErrorKind::WouldBlock);

        pipe.write_all(b"out").expect("never fails");
        assert_eq!((pipe.take_output(), pipe.take_output()), (b"out".to_vec(), Vec::new()));
    }
}
