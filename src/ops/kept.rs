//! Memory that a thread keeps from one product to the next, since the system hands out pages of zeros one by one.

use std::cell::Cell;
use std::thread::LocalKey;

use super::aligned::Aligned;
use super::packed::{PackedColumns, ProductScratch};

/// The memory of one element type. Whoever uses it takes it out meanwhile: a thread that waits for a part of its product may begin another one.
pub(crate) trait Kept: Sized {
    /// The right operand of the long products that this thread called for.
    fn kept_panels() -> &'static LocalKey<Cell<Aligned<Self>>>;
    /// Segments of the left operand of the parts of long products that this thread computes.
    fn kept_lefts() -> &'static LocalKey<Cell<Vec<PackedColumns<Self>>>>;
    /// Blocks of both operands of other products.
    fn kept_products() -> &'static LocalKey<Cell<ProductScratch<Self>>>;
}

macro_rules! keep {
    ($t:ty: $($name:ident -> $kept:ty),*) => {
        impl Kept for $t {
            $(fn $name() -> &'static LocalKey<Cell<$kept>> {
                thread_local! {
                    static KEPT: Cell<$kept> = Cell::default();
                }
                &KEPT
            })*
        }
    };
}
keep!(f32: kept_panels -> Aligned<f32>, kept_lefts -> Vec<PackedColumns<f32>>, kept_products -> ProductScratch<f32>);
keep!(f64: kept_panels -> Aligned<f64>, kept_lefts -> Vec<PackedColumns<f64>>, kept_products -> ProductScratch<f64>);
