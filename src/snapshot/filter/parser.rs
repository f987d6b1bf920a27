//! Builds selectors from tokens.

use regex::Regex;

use super::quote::unquote;
use super::scanner::{Rune, Scanned, Scanner, Token};
use super::{Selector, Test};

/// Where and why an input is no filter, worded as containerd words it.
#[derive(Debug, thiserror::Error)]
#[error("filters: parse error: {}: {message}", marked(input, *at))]
pub(super) struct ParseError {
    input: String,
    at: usize,
    message: String,
}

/// The input with the character in question marked.
fn marked(input: &str, at: usize) -> String {
    match input[at..].chars().next() {
        Some(c) => format!("[{} >|{c}|< {}]", &input[..at], &input[at + c.len_utf8()..]),
        None => format!("[{input}]"),
    }
}

/// Parses one filter; the empty one has no condition.
pub(super) fn parse(input: &str) -> Result<Vec<Selector>, ParseError> {
    if input.is_empty() {
        return Ok(Vec::new());
    }
    Parser { input, scanner: Scanner::new(input) }.selectors()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Matches,
}

struct Parser<'a> {
    input: &'a str,
    scanner: Scanner<'a>,
}

impl Parser<'_> {
    fn selectors(&mut self) -> Result<Vec<Selector>, ParseError> {
        let mut selectors = vec![self.selector()?];
        loop {
            match self.scanner.peek() {
                Rune::End => return Ok(selectors),
                Rune::Char(',') => {
                    self.scanner.scan();
                    selectors.push(self.selector()?);
                }
                Rune::Char(c) => {
                    return Err(
                        self.error(self.scanner.position(), format!("unexpected input: {c}"))
                    );
                }
                Rune::Illegal => return Err(self.error(self.scanner.position(), "unexpected null")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, ParseError> {
        let field = self.field_path()?;
        if matches!(self.scanner.peek(), Rune::Char(',') | Rune::End) {
            return Ok(Selector { field, test: Test::Present });
        }
        let operator = self.operator()?;
        let at = self.scanner.position();
        let value = self.value(operator == Operator::Matches)?;
        let test = match operator {
            Operator::Equal => Test::Equal(value),
            Operator::NotEqual => Test::NotEqual(value),
            Operator::Matches => {
                Test::Matches(Regex::new(&value).map_err(|e| self.error(at, e.to_string()))?)
            }
        };
        Ok(Selector { field, test })
    }

    fn field_path(&mut self) -> Result<Vec<String>, ParseError> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Rune::Char('.') {
            self.scanner.scan();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, ParseError> {
        let scanned = self.scanner.scan();
        match scanned.token {
            Token::Field => Ok(scanned.text.to_owned()),
            Token::Quoted => self.unquote(&scanned, false),
            _ => Err(self.unexpected(&scanned, "expected field or quoted")),
        }
    }

    fn operator(&mut self) -> Result<Operator, ParseError> {
        let scanned = self.scanner.scan();
        match (scanned.token, scanned.text) {
            (Token::Operator, "==") => Ok(Operator::Equal),
            (Token::Operator, "!=") => Ok(Operator::NotEqual),
            (Token::Operator, "~=") => Ok(Operator::Matches),
            (Token::Operator, other) => {
                Err(self.error(scanned.at, format!("unsupported operator {other:?}")))
            }
            _ => Err(self.unexpected(&scanned, r#"expected an operator ("=="|"!="|"~=")"#)),
        }
    }

    fn value(&mut self, any_quotes: bool) -> Result<String, ParseError> {
        let scanned = self.scanner.scan();
        match scanned.token {
            Token::Value | Token::Field => Ok(scanned.text.to_owned()),
            Token::Quoted => self.unquote(&scanned, any_quotes),
            _ => Err(self.unexpected(&scanned, "expected value or quoted")),
        }
    }

    fn unquote(&self, scanned: &Scanned<'_>, any_quotes: bool) -> Result<String, ParseError> {
        if !any_quotes && !scanned.text.starts_with('"') {
            return Err(self.error(scanned.at, "invalid quote encountered"));
        }
        unquote(scanned.text)
            .ok_or_else(|| self.error(scanned.at, "unquoting failed: quote syntax error"))
    }

    fn unexpected(&self, scanned: &Scanned<'_>, expected: &str) -> ParseError {
        match scanned.token {
            Token::Illegal => self.error(scanned.at, self.scanner.error()),
            _ => self.error(scanned.at, expected),
        }
    }

    fn error(&self, at: usize, message: impl Into<String>) -> ParseError {
        ParseError { input: self.input.to_owned(), at, message: message.into() }
    }
}
