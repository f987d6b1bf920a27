//! The conformance cases on plain directories.

use super::conformance;
use super::fixture::Fixture;

#[test]
fn the_native_backend_conforms() {
    conformance::run(Fixture::native);
}
