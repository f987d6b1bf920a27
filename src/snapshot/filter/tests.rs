//! containerd's own tables of scanner and filter cases (`filters/scanner_test.go`,
//! `filter_test.go`), and what is ours: regular expressions are checked at once, and index ranges.

use super::scanner::{Scanned, Scanner, Token};
use super::{Filter, Reach};
use crate::types::Kind;

#[test]
fn the_scanner_cuts_as_containerds_does() {
    use Token::*;
    type Expected<'a> = &'a [(usize, Token, &'a str)];
    #[rustfmt::skip] // a table: a row a line
    let cases: &[(&str, Expected<'_>)] = &[
        ("name", &[(0, Field, "name"), (4, End, "")]),
        (
            "name==value,foo!=bar",
            &[
                (0, Field, "name"), (4, Operator, "=="), (6, Value, "value"), (11, Separator, ","), (12, Field, "foo"),
                (15, Operator, "!="), (17, Value, "bar"), (20, End, ""),
            ],
        ),
        (
            "labels.foo=value,other.bar~=match",
            &[
                (0, Field, "labels"), (6, Separator, "."), (7, Field, "foo"), (10, Operator, "="), (11, Value, "value"),
                (16, Separator, ","), (17, Field, "other"), (22, Separator, "."), (23, Field, "bar"),
                (26, Operator, "~="), (28, Value, "match"), (33, End, ""),
            ],
        ),
        ("name~=[abc]+,foo", &[(0, Field, "name"), (4, Operator, "~="), (6, Value, "[abc]+"), (12, Separator, ","), (13, Field, "foo"), (16, End, "")]),
        (r"name~=[abc]\+,foo", &[(0, Field, "name"), (4, Operator, "~="), (6, Value, r"[abc]\+"), (13, Separator, ","), (14, Field, "foo"), (17, End, "")]),
        ("name~=/[abc]{0,2}/,foo", &[(0, Field, "name"), (4, Operator, "~="), (6, Quoted, "/[abc]{0,2}/"), (18, Separator, ","), (19, Field, "foo"), (22, End, "")]),
        ("name~=牛,moo", &[(0, Field, "name"), (4, Operator, "~="), (6, Value, "牛"), (9, Separator, ","), (10, Field, "moo"), (13, End, "")]),
        ("name~=|牛|,moo", &[(0, Field, "name"), (4, Operator, "~="), (6, Quoted, "|牛|"), (11, Separator, ","), (12, Field, "moo"), (15, End, "")]),
        (r#"name~="asdf\n\tfooo""#, &[(0, Field, "name"), (4, Operator, "~="), (6, Quoted, r#""asdf\n\tfooo""#), (20, End, "")]),
        ("foo\0bar", &[(0, Field, "foo"), (3, Illegal, ""), (4, Field, "bar"), (7, End, "")]),
        ("foo = bar    ", &[(0, Field, "foo"), (4, Operator, "="), (6, Value, "bar"), (13, End, "")]),
        ("a.labels==punctuated_value.foo-bar", &[(0, Field, "a"), (1, Separator, "."), (2, Field, "labels"), (8, Operator, "=="), (10, Value, "punctuated_value.foo-bar"), (34, End, "")]),
        ("interrupted=", &[(0, Field, "interrupted"), (11, Operator, "="), (12, End, "")]),
        ("doublevalue=value value", &[(0, Field, "doublevalue"), (11, Operator, "="), (12, Value, "value"), (18, Field, "value"), (23, End, "")]),
        (r#""leading quote".postquote==value"#, &[(0, Quoted, r#""leading quote""#), (15, Separator, "."), (16, Field, "postquote"), (25, Operator, "=="), (27, Value, "value"), (32, End, "")]),
        ("input==,id!=ff", &[(0, Field, "input"), (5, Operator, "=="), (7, Separator, ","), (8, Field, "id"), (10, Operator, "!="), (12, Value, "ff"), (14, End, "")]),
        (r"input~=/foo\/bar/,id", &[(0, Field, "input"), (5, Operator, "~="), (7, Quoted, r"/foo\/bar/"), (17, Separator, ","), (18, Field, "id"), (20, End, "")]),
        ("input~=|foo/bar|,id", &[(0, Field, "input"), (5, Operator, "~="), (7, Quoted, "|foo/bar|"), (16, Separator, ","), (17, Field, "id"), (19, End, "")]),
        ("io/key==value", &[(0, Field, "io"), (2, Illegal, "/key==value"), (13, End, "")]),
        ("l.\"c.io\nkey\"==value", &[(0, Field, "l"), (1, Separator, "."), (2, Illegal, "\"c.io\n"), (8, Field, "key"), (11, Illegal, "\"==value"), (19, End, "")]),
        (r#"labels."\g""#, &[(0, Field, "labels"), (6, Separator, "."), (7, Illegal, r#""\g""#), (11, End, "")]),
        (r#"labels."\xaz""#, &[(0, Field, "labels"), (6, Separator, "."), (7, Illegal, r#""\xaz""#), (13, End, "")]),
    ];
    for (input, expected) in cases {
        let mut scanner = Scanner::new(input);
        for (at, token, text) in *expected {
            assert_eq!(scanner.scan(), Scanned { at: *at, token: *token, text }, "{input:?}");
        }
        assert_eq!(scanner.scan().token, Token::End, "{input:?}");
    }
}

#[test]
fn the_scanner_says_what_is_illegal() {
    for (input, error) in [
        ("\0", "unexpected null"),
        ("/key", "quoted literal not terminated"),
        (r#""\g""#, "illegal escape sequence"),
        (r#""\xaz""#, "illegal numeric escape sequence"),
    ] {
        let mut scanner = Scanner::new(input);
        assert_eq!(scanner.scan().token, Token::Illegal, "{input:?}");
        assert_eq!(scanner.error(), error, "{input:?}");
    }
}

/// Name, another field, labels.
type Entry = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const CORPUS: [Entry; 9] = [
    ("foo", "", &[("foo", "true")]),
    ("bar", "", &[]),
    ("foo", "", &[("foo", "present"), ("more complex label", "present")]),
    ("bar", "", &[("bar", "true")]),
    ("fooer", "", &[(r#"more complex label with \ and ""#, "present")]),
    ("fooer", "", &[(r#"more complex label with \ and ".post"#, "present")]),
    ("baz", "too complex, yo", &[]),
    ("bazo", "abc", &[]),
    ("compound", "", &[("foo", "omg_asdf.asdf-qwer")]),
];

fn field((name, other, labels): Entry, path: &[String]) -> Option<String> {
    let filled = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    match path[0].as_str() {
        "name" => filled(name),
        "other" => filled(other),
        "labels" => labels
            .iter()
            .find(|(key, _)| *key == path[1..].join("."))
            .map(|(_, value)| (*value).to_owned()),
        _ => None,
    }
}

fn filter(filters: &[&str]) -> super::Result<Filter> {
    Filter::parse(&filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>())
}

fn matching(filters: &[&str]) -> Vec<usize> {
    let filter = filter(filters).unwrap();
    (0..CORPUS.len()).filter(|at| filter.matches_fields(&|path| field(CORPUS[*at], path))).collect()
}

#[test]
fn filters_match_as_containerds_do() {
    let cases: &[(&str, &[usize])] = &[
        ("", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("name", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("labels.foo", &[0, 2, 8]),
        ("labels.foo,name", &[0, 2, 8]),
        ("labels.foo==true", &[0]),
        ("labels.foo==omg_asdf.asdf-qwer", &[8]),
        ("name==bar", &[1, 3]),
        ("name!=bar", &[0, 2, 4, 5, 6, 7, 8]),
        ("name==bar,labels.bar", &[3]),
        (r#"other=="too complex, yo""#, &[6]),
        ("other~=[abc]+,name!=foo", &[6, 7]),
        ("other~=/[abc]+/,name!=foo", &[6, 7]),
        ("other~=/[abc]{1,2}/,name!=foo", &[6, 7]),
        (r#"other~=/[abc]{0,1}"\//,name!=foo"#, &[]),
        ("name==bar,labels.bar==true", &[3]),
        ("name==bar,labels.bar==wrong", &[]),
        (r#"name==foo,labels."more complex label""#, &[2]),
        (r#"labels."more complex label with \\ and \""==present"#, &[4]),
        (r#"labels."more complex label with \\ and \"".post==present"#, &[5]),
        ("unknown", &[]),
        ("unknown!=x,name==bar", &[1, 3]),
    ];
    for (input, expected) in cases {
        assert_eq!(matching(&[input]), *expected, "{input:?}");
    }
    assert_eq!(matching(&[]).len(), CORPUS.len());
    assert_eq!(matching(&["name==baz", "labels.bar"]), [3, 6]);
    assert_eq!(matching(&["name==baz", ""]).len(), CORPUS.len());
}

#[test]
fn what_is_no_filter_is_refused_in_containerds_words() {
    for (input, error) in [
        (
            "labels.|foo|==omg_asdf.asdf-qwer",
            "filters: parse error: [labels. >|||< foo|==omg_asdf.asdf-qwer]: invalid quote encountered",
        ),
        (
            r#"labels.?"more complex label with \\ and \"".post==present"#,
            r#"filters: parse error: [labels. >|?|< "more complex label with \\ and \"".post==present]: expected field or quoted"#,
        ),
        ("name==foo,", "filters: parse error: [name==foo,]: expected field or quoted"),
        ("labels.", "filters: parse error: [labels.]: expected field or quoted"),
        (
            "image~=,id?=?fbaq",
            "filters: parse error: [image~= >|,|< id?=?fbaq]: expected value or quoted",
        ),
        (
            "labels.ns/key==value",
            "filters: parse error: [labels.ns >|/|< key==value]: quoted literal not terminated",
        ),
        (
            "labels.key==/value",
            "filters: parse error: [labels.key== >|/|< value]: quoted literal not terminated",
        ),
        ("name=foo", r#"filters: parse error: [name >|=|< foo]: unsupported operator "=""#),
        ("name==foo bar", "filters: parse error: [name==foo >| |< bar]: unexpected input:  "),
        (
            "name foo",
            r#"filters: parse error: [name  >|f|< oo]: expected an operator ("=="|"!="|"~=")"#,
        ),
        (
            r#"name=="\xff""#,
            r#"filters: parse error: [name== >|"|< \xff"]: unquoting failed: quote syntax error"#,
        ),
    ] {
        let found = filter(&[input]).unwrap_err();
        assert!(matches!(found, super::Error::InvalidArgument(_)), "{found:?}");
        assert_eq!(found.to_string(), error);
    }
}

#[test]
fn a_regular_expression_that_does_not_compile_is_refused() {
    assert!(filter(&["name~=[a"]).unwrap_err().to_string().contains("unclosed character class"));
    assert!(filter(&["name==a", "name~=*"]).is_err());
}

#[test]
fn escapes_are_those_of_go_strings() {
    for (literal, text) in [
        (r#""a\tb\"\\""#, Some("a\tb\"\\")),
        (r#""\x41\102\u00e9\U0001F600""#, Some("ABé😀")),
        (r#""\xc3\xa9""#, Some("é")),
        (r"/a\/b|c/", Some("a/b|c")),
        (r"|a/b\||", Some("a/b|")),
        (r#""\'""#, None),
        (r#""\400""#, None),
        (r#""\ud800""#, None),
        (r#"""#, None),
    ] {
        assert_eq!(super::quote::unquote(literal).as_deref(), text, "{literal}");
    }
}

#[test]
fn a_single_filter_reads_only_the_index_range_that_it_needs() {
    for (filters, reach) in [
        (&[][..], vec![Reach::Everything]),
        (&["kind==active"], vec![Reach::Kind(Kind::Active)]),
        (&["labels.a,kind==committed"], vec![Reach::Labelled("a".into(), None)]),
        (&[r#"labels."a.b"==c,kind==view"#], vec![Reach::Labelled("a.b".into(), Some("c"))]),
        (&["labels.a.b!=c,kind==view"], vec![Reach::Kind(Kind::View)]),
        (&["kind==nonsense"], vec![Reach::Everything]),
        (&["kind!=active"], vec![Reach::Everything]),
        (&["kind==view", "kind==active"], vec![Reach::Kind(Kind::View), Reach::Kind(Kind::Active)]),
        (&["parent==p,labels.a==b"], vec![Reach::ChildrenOf("p")]),
        (&[r#"parent=="""#], vec![Reach::Everything]),
        (&["kind==active,name==n"], vec![Reach::Named("n")]),
    ] {
        assert_eq!(filter(filters).unwrap().reaches(), reach, "{filters:?}");
    }
}
