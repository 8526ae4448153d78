//! Files: each rank reads its columns of E and F, and the first writes what all have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use ndarray::{Array2, ArrayD, ArrayViewD, Axis, IxDyn, s};

use super::communicator::Communicator;
use super::gradients::has_matrices;
use super::sharded::{Build, Shardable, Sharded, check_shards, is_matrix, replicated_digest};
use super::shards::Shards;
use super::team::{Header, Team, digest, together, together_with};
use crate::checkpoint::{Contents, Opened, Stored, assign, decode, described, description_of, encode, native_dtype};
use crate::config::{AttentionKind, EncoderConfig};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::scalar::Scalar;
use crate::training::{Optimizer, Step, resume, run_metadata, run_tensors};

/// Bytes of a matrix, of all ranks together, that are gathered at once.
const GATHERED: usize = 1 << 28;

#[allow(private_bounds)] // the bound is the seal of `Checkpoint`
impl<'c, M> Sharded<'c, M> {
    /// Loads a model from a file that [`save`](Self::save), or [`Checkpoint::save`](crate::checkpoint::Checkpoint::save) in one process, wrote, with
    /// even shards over its `seq_len`. Only this rank's columns of E and F are read.
    ///
    /// # Errors
    /// Returns an error as [`Checkpoint::load`](crate::checkpoint::Checkpoint::load) and [`Sharded::new`] do, if the ranks read different files, or if
    /// the model has local-global attention, and with it no `seq_len`: see [`load_with_shards`](Self::load_with_shards).
    pub fn load<A: Scalar>(path: impl AsRef<Path>, communicator: &'c dyn Communicator) -> Result<Self>
    where
        M: Shardable<A> + Stored<A, Config = <M as Shardable<A>>::Config>,
    {
        Self::load_with(path.as_ref(), None, communicator)
    }

    /// Runs [`load`](Self::load) with these shards.
    ///
    /// # Errors
    /// Returns an error as [`load`](Self::load) does.
    pub fn load_with_shards<A: Scalar>(path: impl AsRef<Path>, shards: Shards, communicator: &'c dyn Communicator) -> Result<Self>
    where
        M: Shardable<A> + Stored<A, Config = <M as Shardable<A>>::Config>,
    {
        Self::load_with(path.as_ref(), Some(shards), communicator)
    }

    fn load_with<A: Scalar>(path: &Path, shards: Option<Shards>, communicator: &'c dyn Communicator) -> Result<Self>
    where
        M: Shardable<A> + Stored<A, Config = <M as Shardable<A>>::Config>,
    {
        const OPERATION: &str = "Sharded::load";
        let opened = open_model::<A, M>(path, shards, communicator).map(|opened| {
            let header = Header::new([("the file", file_digest(&opened.0))]);
            (header, opened)
        });
        let (file, config, shards) = together_with(communicator, OPERATION, opened, |_, opened| Ok(opened))?;
        let (columns, total) = (shards.range(communicator.rank()), shards.total());
        let has_matrices = has_matrices(M::encoder_config(&config));
        let sharded = Self::made(&config, shards, communicator, Ok(Header::default()), |config| {
            let tensors = file.read::<A>(&columns, total, |name| has_matrices && is_matrix(name))?;
            let mut model = <M as Build>::build(config, &mut Streams::zeros().with_columns(columns.clone()));
            assign(&mut model, &tensors)?;
            Ok(model)
        })?;
        sharded.compare_parameters(OPERATION)?;
        Ok(sharded)
    }

    /// Writes the whole model to one file, which is the same as that of a single process. The first rank writes it, and has all of E and F in
    /// memory for that; the others' paths are not looked at. Over a [grid](Self::with_replicas), let the ranks of one replica save.
    ///
    /// # Errors
    /// Returns an error on all ranks as [`Checkpoint::save`](crate::checkpoint::Checkpoint::save) does, or if another rank failed.
    pub fn save<A: Scalar>(&self, path: impl AsRef<Path>) -> Result<()>
    where
        M: Shardable<A> + Stored<A, Config = <M as Shardable<A>>::Config>,
    {
        self.together("Sharded::save", Ok(self.model_header()), |team| {
            let metadata = description_of(self.model())?;
            self.write(team, path.as_ref(), self.model().named(), metadata)
        })
    }

    /// Saves a run over several ranks as [`save_training`](crate::training::save_training) does, to a file that any number of ranks can resume from,
    /// one process too.
    ///
    /// # Errors
    /// Returns an error as [`save`](Self::save) does.
    pub fn save_training<A: Scalar>(&self, path: impl AsRef<Path>, optimizer: &impl Optimizer<A>, next: Step) -> Result<()>
    where
        M: Shardable<A> + 'static,
    {
        let words = [("the next step's seed", next.seed), ("the next step's index", next.index)];
        self.together("Sharded::save_training", Ok(self.model_header().and(words)), |team| {
            let metadata = run_metadata(self.model(), optimizer, next)?;
            self.write(team, path.as_ref(), run_tensors(self.model(), optimizer), metadata)
        })
    }

    /// Loads, as [`load_training`](crate::training::load_training) does, a run that any number of ranks, or one process, saved. From E and F, and
    /// their moments, only this rank's columns are read.
    ///
    /// # Errors
    /// Returns an error as [`load_training`](crate::training::load_training) does, if the ranks read different files, or if another rank failed. If
    /// the files differ only in their numbers, the model has been changed by the time this is detected.
    pub fn load_training<A: Scalar, O: Optimizer<A>>(&mut self, path: impl AsRef<Path>, optimizer: &mut O) -> Result<Step>
    where
        M: Shardable<A>,
    {
        const OPERATION: &str = "Sharded::load_training";
        let columns = self.range();
        let has_matrices = has_matrices(M::encoder_config(self.model().configuration()));
        // Read before the ranks meet, so that whatever is wrong with a file is found while nothing has changed.
        let read = Opened::open(path.as_ref()).and_then(|file| {
            let header = self.model_header().and([("the file", file_digest(&file))]);
            Ok((
                header,
                file.read::<A>(&columns, self.shards().total(), |name| has_matrices && is_matrix(name))?,
            ))
        });
        let step = together_with(self.communicator(), OPERATION, read, |_, tensors| {
            resume(tensors, self.model_mut(), optimizer)
        })?;
        self.compare_parameters(OPERATION)?;
        Ok(step)
    }

    /// Writes tensors, with all columns of the matrices, at the first rank.
    fn write<A: Scalar>(
        &self,
        team: &Team<'_>,
        path: &Path,
        tensors: Vec<(String, ArrayViewD<'_, A>)>,
        metadata: BTreeMap<String, String>,
    ) -> Result<()>
    where
        M: Shardable<A>,
    {
        let has_matrices = has_matrices(M::encoder_config(self.model().configuration()));
        let mut whole = Vec::new();
        for (name, tensor) in tensors.iter().filter(|(name, _)| has_matrices && is_matrix(name)) {
            if let Some(matrix) = gathered(team, self.shards(), tensor.view())? {
                whole.push((name, matrix));
            }
        }
        if team.rank() > 0 {
            return Ok(());
        }
        let mut views: Vec<_> = whole.iter().map(|(name, matrix)| ((*name).clone(), matrix.view())).collect();
        let others = tensors.iter().filter(|(name, _)| !(has_matrices && is_matrix(name)));
        views.extend(others.map(|(name, tensor)| (name.clone(), tensor.view())));
        Contents::new(views, metadata)?.save(path)
    }

    /// An error where ranks have different parameters, E and F aside.
    fn compare_parameters<A: Scalar>(&self, operation: &'static str) -> Result<()>
    where
        M: Shardable<A>,
    {
        let has_matrices = has_matrices(M::encoder_config(self.model().configuration()));
        let own = replicated_digest(self.model(), has_matrices);
        together(self.communicator(), operation, Ok(Header::new([("the parameters", own)])), |_| {
            Ok(())
        })
    }
}

type Model<C> = (Opened<BufReader<File>>, C, Shards);

/// A model's file, its configuration and its shards.
fn open_model<A: Scalar, M>(
    path: &Path,
    shards: Option<Shards>,
    communicator: &dyn Communicator,
) -> Result<Model<<M as Shardable<A>>::Config>>
where
    M: Shardable<A> + Stored<A, Config = <M as Shardable<A>>::Config>,
{
    let file = Opened::open(path)?;
    let header = file.header();
    let config = described::<A, M>(&header.metadata, header.tensors.len(), file.number_count())?;
    let shards = match shards {
        Some(shards) => shards,
        None => Shards::even(seq_len(M::encoder_config(&config))?, communicator.size())?,
    };
    check_shards::<A, M>(&config, &shards, communicator)?;
    Ok((file, config, shards))
}

fn seq_len(config: &EncoderConfig) -> Result<usize> {
    match &config.attention {
        AttentionKind::Linformer(attention) => Ok(attention.seq_len),
        AttentionKind::LocalGlobal(_) => Err(Error::argument(
            "Sharded::load",
            "local-global attention has no length of its own to spread evenly; say which positions each rank has with load_with_shards",
        )),
        // It is refused as such.
        _ => Ok(0),
    }
}

/// A number that tells files of different tensors or descriptions apart.
fn file_digest<R: Read + Seek>(file: &Opened<R>) -> u64 {
    let header = file.header();
    digest(format!("{:?} {:?}", header.metadata, header.tensors).into_bytes())
}

/// The columns of all ranks, side by side, at the first; a few rows at a time.
fn gathered<A: Scalar>(team: &Team<'_>, shards: &Shards, part: ArrayViewD<'_, A>) -> Result<Option<ArrayD<A>>> {
    let last = Axis(part.ndim() - 1);
    let rows: usize = part.shape()[..last.index()].iter().product();
    let together = (GATHERED / (shards.total() * size_of::<A>()).max(1)).clamp(1, rows.max(1));
    let mut whole = Array2::zeros((if team.rank() == 0 { rows } else { 0 }, shards.total()));
    let mut lanes = part.lanes(last).into_iter();
    for first in (0..rows).step_by(together) {
        let count = together.min(rows - first);
        let mut bytes = Vec::new();
        for lane in lanes.by_ref().take(count) {
            lane.iter().for_each(|&number| encode(number, &mut bytes));
        }
        let Some(all) = team.gather(&bytes)? else {
            continue;
        };
        for (rank, bytes) in all.iter().enumerate() {
            let mut numbers = Vec::new();
            decode::<A>(native_dtype::<A>(), bytes, &mut numbers);
            let mut target = whole.slice_mut(s![first..first + count, shards.range(rank)]);
            for (to, number) in target.iter_mut().zip(numbers) {
                *to = number;
            }
        }
    }
    if team.rank() > 0 {
        return Ok(None);
    }
    let mut shape = part.shape().to_vec();
    shape[last.index()] = shards.total();
    let whole = whole.into_shape_with_order(IxDyn(&shape));
    Ok(Some(whole.expect("there are as many rows")))
}
