"""certificates.py - for tests: a CA that signed a server's and a client's certificate, in a folder with libvirt's names of files, by the openssl command."""
import os, subprocess


def make(folder, host="localhost"):
    """host: whom the server's certificate is for."""
    os.mkdir(folder)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def openssl(*argv):
        subprocess.run(("openssl",) + argv, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=an authority for tests", "-days", "3", "-addext", "keyUsage=keyCertSign")
    for who, name in (("server", host), ("client", "somebody")):
        openssl("req", *key, "-keyout", who + "-key.pem", "-out", "request", "-subj", "/CN=" + name)
        with open(folder + "/extensions", "w") as f:
            f.write("basicConstraints=CA:FALSE\nextendedKeyUsage=%sAuth\nkeyUsage=digitalSignature\n" % who)
            f.write("subjectAltName=DNS:%s%s\n" % (name, ",IP:127.0.0.1" if name == "localhost" else ""))
        openssl("x509", "-req", "-in", "request", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-out", who + "-cert.pem", "-days", "3", "-extfile", "extensions")
    return folder
