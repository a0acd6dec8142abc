//! Numbers that follow from a seed.

/// A generator (SplitMix64): small, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of this run: that of the environment, else always the same one.
    pub fn seed() -> u64 {
        let given = std::env::var("VIC_CHAOS_SEED").ok();
        given.and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // The remainder is smaller than a usize.
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }

    /// One of several; `None` of none.
    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        match from.len() {
            0 => None,
            some => from.get(self.below(some)),
        }
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
