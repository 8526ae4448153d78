//! Series with a class each: read from files, or made up.

use std::f32::consts::TAU;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::AnyError;

/// Series of one length.
pub(crate) struct Series {
    pub(crate) values: Vec<Vec<f32>>,
    /// The class of each series, a place in `names`.
    pub(crate) classes: Vec<usize>,
    pub(crate) names: Vec<String>,
}

impl Series {
    /// Reads a file in the format of the UCR archive (.ts): lines that begin with `@` say what it holds, and after `@data` each line is a series, its
    /// points with commas between them, then a colon and its class.
    pub(crate) fn read(path: &Path) -> Result<Self, AnyError> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        parse(&text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// The number of points of each series.
    pub(crate) fn length(&self) -> usize {
        self.values.first().map_or(0, Vec::len)
    }

    /// Splits off every `parts`-th series of each class, beginning with the one at `first`: what is left, and what was split off.
    pub(crate) fn split(self, parts: usize, first: usize) -> [Self; 2] {
        let mut seen = vec![0; self.names.len()];
        let mut split = [(); 2].map(|()| Self {
            values: Vec::new(),
            classes: Vec::new(),
            names: self.names.clone(),
        });
        for (values, class) in self.values.into_iter().zip(self.classes) {
            let part = &mut split[usize::from(seen[class] % parts == first % parts)];
            seen[class] += 1;
            part.values.push(values);
            part.classes.push(class);
        }
        split
    }

    /// The mean and the standard deviation of all points.
    pub(crate) fn mean_and_deviation(&self) -> (f32, f32) {
        let count = self.values.iter().map(Vec::len).sum::<usize>() as f64;
        let all = || self.values.iter().flatten().map(|&value| f64::from(value));
        let mean = all().sum::<f64>() / count;
        let variance = all().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        #[allow(clippy::cast_possible_truncation)] // as precise as the points are
        (mean as f32, variance.sqrt().max(f64::from(f32::MIN_POSITIVE)) as f32)
    }

    /// Makes the mean 0 and the standard deviation 1, given those of the series for training.
    pub(crate) fn standardize(&mut self, (mean, deviation): (f32, f32)) {
        self.values
            .iter_mut()
            .flatten()
            .for_each(|value| *value = (*value - mean) / deviation);
    }

    /// The share of `self` whose most similar series of `training`, by the squared differences of the points, has the same class.
    pub(crate) fn nearest_neighbor(&self, training: &Self) -> f64 {
        let distance = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum() };
        let right = self.values.iter().zip(&self.classes).filter(|(values, class)| {
            let others = training.values.iter().map(|other| distance(values, other)).zip(&training.classes);
            others
                .min_by(|(a, _), (b, _)| a.total_cmp(b))
                .is_some_and(|(_, other)| other == *class)
        });
        right.count() as f64 / self.values.len() as f64
    }

    /// The share of the most frequent class.
    pub(crate) fn majority(&self) -> f64 {
        let count = |class| self.classes.iter().filter(|&&other| other == class).count();
        (0..self.names.len()).map(count).max().unwrap_or(0) as f64 / self.classes.len() as f64
    }

    /// Noise that hides one of four shapes, at any place.
    pub(crate) fn made_up(count: usize, length: usize, seed: u64) -> Self {
        const SHAPE: usize = 24;
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let classes: Vec<usize> = (0..count).map(|series| series % 4).collect();
        let values = classes.iter().map(|class| {
            let mut values: Vec<f32> = (0..length).map(|_| generator.random_range(-1.0..1.0)).collect();
            let place = generator.random_range(0..=length - SHAPE);
            for (t, value) in values[place..place + SHAPE].iter_mut().enumerate() {
                let x = t as f32 / SHAPE as f32;
                *value += 1.5
                    * match class {
                        0 => (TAU * x).sin(),
                        1 => -(TAU * x).sin(),
                        2 => (2.0 * TAU * x).sin(),
                        _ => 2.0 * x - 1.0,
                    };
            }
            values
        });
        Self {
            values: values.collect(),
            classes: classes.clone(),
            names: ["wave", "inverted wave", "double wave", "ramp"].map(String::from).to_vec(),
        }
    }
}

fn parse(text: &str) -> Result<Series, AnyError> {
    let mut series = Series {
        values: Vec::new(),
        classes: Vec::new(),
        names: Vec::new(),
    };
    let mut is_data = false;
    let lines = text.lines().map(str::trim).enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if is_data {
            let (values, class) = point_line(line, &series.names).map_err(|error| format!("line {}: {error}", index + 1))?;
            series.values.push(values);
            series.classes.push(class);
        } else {
            is_data = header_line(line, &mut series.names)?;
        }
    }
    if series.names.is_empty() || series.values.is_empty() {
        return Err("there are no classes (`@classLabel true …`), or there is no series after `@data`".into());
    }
    let length = series.length();
    match series.values.iter().find(|values| values.len() != length) {
        Some(other) => Err(format!(
            "the series have {length} points and {} points; this example wants one length",
            other.len()
        )
        .into()),
        None => Ok(series),
    }
}

/// Reads a line before the data: whether it says that these come next.
fn header_line(line: &str, names: &mut Vec<String>) -> Result<bool, AnyError> {
    let mut words = line.split_whitespace();
    let keyword = words.next().unwrap_or_default().to_lowercase();
    match (keyword.as_str(), words.next()) {
        ("@timestamps" | "@missing", Some("true")) | ("@univariate" | "@equallength" | "@classlabel", Some("false")) => {
            Err(format!("`{line}`: this example reads series of one number a point, of one length, all points there, with classes").into())
        }
        ("@classlabel", Some(_)) => {
            names.extend(words.map(String::from));
            Ok(false)
        }
        (keyword, _) => Ok(keyword == "@data"),
    }
}

fn point_line(line: &str, names: &[String]) -> Result<(Vec<f32>, usize), AnyError> {
    let (points, name) = line.rsplit_once(':').ok_or("there is no class after a colon")?;
    let class = names.iter().position(|other| other == name.trim());
    let class = class.ok_or_else(|| format!("the class `{name}` is not in @classLabel"))?;
    let number = |point: &str| match point.trim().parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("`{point}` is not a number")),
    };
    Ok((points.split(',').map(number).collect::<Result<_, _>>()?, class))
}
