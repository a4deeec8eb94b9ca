//! A plain HTTP client: a connection a request, and requests that stop half-way.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

/// A server, by its address.
pub(crate) struct Server(pub(crate) String);

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start: String = self.text().chars().take(300).collect();
        write!(f, "{} {:?} {start}", self.status, self.headers)
    }
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let answer = Self { status, headers, body: bytes.split_off(end + 4) };
        assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{answer}");
        answer
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self}");
        self
    }
}

/// A request whose last byte is not sent.
pub(crate) struct Half {
    stream: TcpStream,
    last: u8,
}

impl Half {
    /// Sends the rest.
    pub(crate) fn send(mut self) -> TcpStream {
        self.stream.write_all(&[self.last]).unwrap();
        self.stream
    }

    /// What comes back though the rest never does.
    pub(crate) fn given_up(self) -> Answer {
        Answer::read(self.stream)
    }

    pub(crate) fn finish(self) -> Answer {
        Answer::read(self.send())
    }
}

impl Server {
    pub(crate) fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(&self.0)
    }

    fn write(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
        body: &[u8],
    ) -> TcpStream {
        let mut stream = self.connect().unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.0);
        head.push_str(&format!("content-length: {length}\r\n"));
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has refused already may have closed the connection.
        let _ = stream.write_all(body);
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::read(self.write("GET", path, &[], 0, b""))
    }

    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        Answer::read(self.write("POST", path, headers, body.len(), body))
    }

    pub(crate) fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Posts all but the last byte.
    pub(crate) fn begin(&self, path: &str, body: &[u8]) -> Half {
        let (last, rest) = body.split_last().unwrap();
        Half { stream: self.write("POST", path, &[], body.len(), rest), last: *last }
    }
}
