//! What is exchanged, in numbers of bytes.

use std::cell::RefCell;

use linformer::distributed::{Combine, Communicator, Numbers, Sharded, Shards, ThreadRank};
use linformer::ndarray::Array3;
use linformer::{AttentionKind, Encoder, EncoderConfig, LinformerConfig, LocalGlobalConfig, Result, Sharing};

use super::ranks;

/// Keeps the bytes of every reduction of numbers, and the number of status words.
#[derive(Debug)]
struct Counting<'r> {
    inner: &'r ThreadRank,
    numbers: RefCell<Vec<usize>>,
    words: RefCell<usize>,
}

impl Communicator for Counting<'_> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn all_reduce(&self, numbers: Numbers<'_>, by: Combine) -> Result<()> {
        match &numbers {
            Numbers::U64(words) => *self.words.borrow_mut() += words.len(),
            _ => self.numbers.borrow_mut().push(numbers.bytes()),
        }
        self.inner.all_reduce(numbers, by)
    }

    fn broadcast(&self, numbers: Numbers<'_>, root: usize) -> Result<()> {
        self.inner.broadcast(numbers, root)
    }

    fn gather(&self, bytes: &[u8], root: usize) -> Result<Option<Vec<Vec<u8>>>> {
        self.inner.gather(bytes, root)
    }

    fn split(&self, color: usize) -> Result<Box<dyn Communicator>> {
        self.inner.split(color)
    }
}

/// The bytes of each exchange of a forward pass, and the number of status words.
fn exchanged(length: usize, attention: impl Into<AttentionKind>) -> (Vec<usize>, usize) {
    let config = EncoderConfig::new(attention, 3);
    let all = ranks(2, |rank| {
        let counting = Counting {
            inner: rank,
            numbers: RefCell::default(),
            words: RefCell::default(),
        };
        let encoder = Sharded::<Encoder<f32>>::new(&config, 0, Shards::even(length, 2)?, &counting)?;
        counting.words.take();
        encoder.forward(&Array3::ones((3, encoder.range().len(), 16)), None)?;
        Ok((counting.numbers.take(), counting.words.take()))
    });
    assert_eq!(all[0], all[1]);
    all.into_iter().next().unwrap()
}

#[test]
fn a_layer_exchanges_2_k_d_numbers_an_item_whatever_the_length() {
    let bytes = |numbers: usize| vec![numbers * 4 * 16 * 3 * size_of::<f32>(); 3];
    // A matrix a head makes sums of its own for each head where it comes before the weights.
    for (sharing, numbers) in [
        (Sharing::None, 2 * 2),
        (Sharing::Headwise, 2),
        (Sharing::KeyValue, 1),
        (Sharing::Layerwise, 1),
    ] {
        let exchanged = |length| exchanged(length, LinformerConfig::new(16, 2, length, 4).with_sharing(sharing));
        let short = exchanged(50);
        assert_eq!(short, exchanged(1000), "{sharing:?}");
        assert_eq!(short.0, bytes(numbers), "{sharing:?}");
    }
}

/// Summaries of segments, the rows of two blocks on either side of the bound, and what few blocks far from it weigh.
#[test]
fn a_local_global_layer_exchanges_its_slots_and_the_blocks_at_the_bound() {
    let (slots, block, heads, dim) = (8, 4, 2, 16);
    let of_length = |length| exchanged(length, LocalGlobalConfig::new(dim, heads).with_block(block).with_slots(slots));
    let long = of_length(1 << 13);
    assert_eq!(long, of_length(1 << 7));
    let (rows, far) = (2 * block * (1 + 2 * dim), heads * 2 * 2);
    let (maxima, sums) = (heads * slots + far, heads * slots + 2 * dim * slots + far);
    let layer = [rows, maxima, sums].map(|numbers| 3 * numbers * size_of::<f32>());
    assert_eq!(long.0, layer.repeat(3));
}
