//! Numbers that begin on a cache line, so that no register of them straddles two.

use std::ops::{Deref, DerefMut};

/// Numbers of a cache line, which is also the widest register.
const LINE: usize = 16;

/// A fixed number of floats, the first of which begins a cache line. The system's allocator aligns by 16 bytes only,
/// and where a register straddles two lines, each of its loads is two.
#[derive(Debug)]
pub(crate) struct Aligned {
    data: Vec<f32>,
    /// Where the numbers begin, and how many they are.
    start: usize,
    len: usize,
}

impl Aligned {
    /// So many zeros, of which nothing is touched yet.
    pub(crate) fn zeros(len: usize) -> Self {
        // An empty one needs no memory.
        let data = vec![0.0; if len == 0 { 0 } else { len + LINE - 1 }];
        let start = match data.as_ptr().align_offset(LINE * size_of::<f32>()) {
            offset if offset < LINE && len > 0 => offset,
            // As an interpreter may say.
            _ => 0,
        };
        Self { data, start, len }
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.data)
    }
}

impl Clone for Aligned {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_on_a_cache_line_and_a_copy_has_the_same() {
        for len in [0, 1, 15, 16, 17, 100_003] {
            let mut buffer = Aligned::zeros(len);
            assert_eq!((buffer.len(), buffer.iter().all(|&x| x.to_bits() == 0)), (len, true));
            buffer.iter_mut().zip(0_u16..).for_each(|(x, place)| *x = f32::from(place));
            let copy = buffer.clone();
            assert!(copy[..] == buffer[..]);
            for some in [&buffer, &copy] {
                assert!(cfg!(miri) || len == 0 || some.as_ptr().addr().is_multiple_of(64), "{len}");
                assert!(some.bytes() < 4 * len + 64);
            }
        }
    }
}
