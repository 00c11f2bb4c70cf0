//! Expressions over variables: what is accepted can be asked, with any values.

use headgate_model::expr::{self, Expr};
use serde_json::Value;

/// The first byte is the length of a variable's value, which follows; then the expression, JSON.
pub(crate) fn check(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let Some((value, rule)) = rest.split_at_checked(usize::from(*length)) else { return };
    let Ok(rule) = serde_json::from_slice::<Value>(rule) else { return };
    let is_valid = expr::check(&rule).is_ok();
    let find = &mut |name: &str| (!name.starts_with('x')).then_some(name.len());
    let compiled = Expr::compile(&rule, find);
    assert_eq!(compiled.is_ok(), is_valid);
    let Ok(compiled) = compiled else { return };
    let mut scratch = Vec::new();
    let first = compiled.holds(&mut scratch, &mut |index, out| {
        out.extend_from_slice(value);
        index % 3 != 0
    });
    let again = compiled.holds(&mut scratch, &mut |index, out| {
        out.extend_from_slice(value);
        index % 3 != 0
    });
    assert_eq!(first, again);
}
