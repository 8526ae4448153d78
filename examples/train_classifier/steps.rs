//! The documents of each training step.

use linformer::training::{Epochs, Step, TokenBatch};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::{self, AnyError, Options};
use crate::{Sequence, Tokens};

/// Draws documents, and leaves out some of their tokens.
pub(crate) struct Drawing<'d> {
    documents: &'d [Sequence],
    n: usize,
    count: usize,
    /// Words: batches of similar length. Most documents have more bytes than are read, so that these need none.
    epochs: Option<Epochs>,
    dropout: f64,
}

impl<'d> Drawing<'d> {
    pub(crate) fn new(options: &Options, tokens: Tokens, documents: &'d [Sequence], seed: u64) -> Result<Self, AnyError> {
        let lengths: Vec<usize> = documents.iter().map(|(tokens, _)| tokens.len()).collect();
        let count = options.count("batch");
        let epochs = match tokens {
            Tokens::Words => Some(Epochs::by_length(&lengths, count, seed)?),
            Tokens::Bytes => None,
        };
        Ok(Self {
            documents,
            n: options.count("n"),
            count,
            epochs,
            dropout: options.share("word-dropout"),
        })
    }

    /// The documents of the next step.
    pub(crate) fn batch(&mut self, step: Step) -> Result<TokenBatch, AnyError> {
        let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
        generator.set_stream(step.index);
        let places: Vec<usize> = match self.epochs.as_mut().and_then(Iterator::next) {
            Some(places) => places,
            None => (0..self.count).map(|_| generator.random_range(0..self.documents.len())).collect(),
        };
        let documents = places.iter().map(|&place| self.thinned(&self.documents[place], &mut generator));
        support::batch(&documents.collect::<Vec<_>>())
    }

    /// The first tokens that are not left out. What is left out makes room for what follows, so that positions are as many as in a test.
    fn thinned(&self, (tokens, class): &Sequence, generator: &mut ChaCha8Rng) -> Sequence {
        let kept = tokens.iter().copied().enumerate();
        // The first one stays, so that no document is empty.
        let kept = kept.filter(|&(place, _)| place == 0 || !generator.random_bool(self.dropout));
        (kept.map(|(_, token)| token).take(self.n).collect(), *class)
    }
}
