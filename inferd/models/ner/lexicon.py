"""Word lists that the sentence generator (`data.py`) draws from: names, places, organisations, plain words.

Each list is a tuple of str. The lists named FAMOUS_* hold names that nearly every reader knows and are always
training material; every other list of names is divided into a training and a held-out part by `data.split`.
Written from common knowledge for this repository; no data set was copied.
"""

from __future__ import annotations


def names(text: str) -> tuple[str, ...]:
    """The comma-separated names of a block of text, in order, each once."""
    return tuple(dict.fromkeys(" ".join(name.split()) for name in text.split(",") if name.strip()))


def _words(text: str) -> tuple[str, ...]:
    """The blank-separated words of a block of text, in order, each once."""
    return tuple(dict.fromkeys(text.split()))


FIRST_NAMES = _words("""
James Mary John Patricia Robert Jennifer Michael Linda David Elizabeth William Barbara Richard Susan Joseph
Jessica Thomas Sarah Charles Karen Christopher Lisa Daniel Nancy Matthew Betty Anthony Margaret Mark Sandra
Donald Ashley Steven Kimberly Paul Emily Andrew Donna Joshua Michelle Kenneth Carol Kevin Amanda Brian
Dorothy George Melissa Timothy Deborah Ronald Stephanie Edward Rebecca Jason Sharon Jeffrey Laura Ryan
Cynthia Jacob Kathleen Gary Amy Nicholas Angela Eric Shirley Jonathan Anna Stephen Brenda Larry Pamela Justin
Emma Scott Nicole Brandon Helen Benjamin Samantha Samuel Katherine Gregory Christine Alexander Debra Patrick
Rachel Frank Carolyn Raymond Janet Jack Maria Dennis Catherine Jerry Heather Tyler Diane Aaron Olivia Jose
Julie Adam Joyce Nathan Victoria Henry Ruth Zachary Virginia Douglas Lauren Peter Kelly Kyle Christina Noah
Joan Ethan Evelyn Jeremy Judith Walter Andrea Keith Hannah Roger Megan Terry Cheryl Austin Jacqueline Sean
Martha Gerald Madison Carl Teresa Harold Gloria Dylan Sara Arthur Janice Lawrence Ann Jordan Kathryn Jesse
Abigail Bryan Sophia Billy Frances Bruce Jean Gabriel Alice Joe Judy Logan Isabella Alan Julia Juan Grace
Albert Amber Willie Denise Elijah Danielle Wayne Marilyn Randy Beverly Vincent Charlotte Mason Natalie Roy
Theresa Ralph Diana Bobby Brittany Russell Doris Bradley Kayla Philip Alexis Eugene Lori Tim Tom Bob Jim Bill
Mike Dave Steve Nick Ben Sam Kate Sue Liz Meg Tony Ted Fred Ned Max Leo Oscar Hugo Felix Otto Hans Klaus
Jürgen Wolfgang Heinrich Friedrich Günther Ulrich Matthias Stefan Lukas Jonas Moritz Greta Heidi Ingrid
Ursula Liesl Annika Sabine Petra Birgit Monika Katja Anja Silke Dieter Gerhard Konrad Werner Pierre Jacques
Luc François Michel Antoine Étienne Olivier Thierry Guillaume Laurent Marcel Émile Gaston Claire Amélie Chloé
Camille Margaux Élodie Juliette Colette Simone Brigitte Sylvie Hélène Marie Giovanni Marco Luca Matteo
Alessandro Lorenzo Giuseppe Francesco Antonio Paolo Giulia Chiara Francesca Sofia Martina Elena Bianca Lucia
Carlos Miguel Luis Javier Diego Alejandro Fernando Rafael Pablo Sergio Andrés Ricardo Eduardo Jorge Manuel
Ramón Carmen Isabel Pilar Dolores Rosa Lucía Ximena Valentina Camila Guadalupe Consuelo Esperanza Inés
Beatriz Joana João Tiago Thiago Gonçalo Duarte Mateus Caetano Luana Larissa Fernanda Juliana Rui Ivan Dmitri
Sergei Nikolai Vladimir Boris Mikhail Alexei Andrei Yuri Igor Oleg Pavel Natasha Olga Svetlana Tatiana Irina
Ekaterina Anastasia Ludmila Galina Oksana Bohdan Taras Piotr Paweł Krzysztof Zbigniew Wojciech Andrzej
Agnieszka Katarzyna Małgorzata Zofia Jadwiga Jiří Václav Zdeněk Milan Zuzana László István Ferenc Gábor
Katalin Ágnes Nikola Dragan Milica Jelena Marko Zoran Goran Vesna Ivana Lars Erik Anders Sven Gustav Bjørn
Magnus Håkon Nils Astrid Freya Sigrid Linnea Elsa Maja Saga Mikko Jukka Aino Kaisa Niamh Siobhan Aoife Ciaran
Padraig Seamus Declan Finn Eoin Fiona Ewan Hamish Isla Rhys Gareth Bronwyn Angus Ahmed Mohammed Muhammad Ali
Omar Hassan Hussein Khalid Ibrahim Yusuf Mustafa Tariq Karim Rashid Samir Bilal Faisal Fatima Aisha Layla
Zainab Khadija Mariam Noor Yasmin Salma Huda Leila Amira Rania Nadia Mehmet Emre Ayşe Elif Zeynep Burak Cem
Deniz Selin Reza Darius Cyrus Shirin Parisa Farhad Nasrin Dariush Avi Moshe Yael Noa Shira Eitan Tamar Priya
Rahul Amit Anjali Deepak Sanjay Vijay Arjun Ravi Sunita Lakshmi Kavita Neha Pooja Rohan Anil Sunil Rajesh
Suresh Ramesh Meera Divya Shreya Aditya Karthik Vikram Nikhil Ananya Ishaan Indira Harpreet Gurpreet Imran
Asif Nasreen Shabnam Wei Ming Jing Li Xin Yan Hui Fang Jun Mei Ling Xiaoming Hao Lei Tao Yong Zhi Qing Lan
Hiroshi Yuki Kenji Takashi Akira Satoshi Haruto Ren Sakura Yui Hina Aiko Naomi Keiko Yoko Kazuo Shinji Emi
Minjun Seo-yeon Jiho Hyun Soo-jin Ji-woo Sung Eun Kyung Minh Linh Thanh Nguyet Tuan Huong Lan Anh Duc Somchai
Siriporn Ananda Putu Wayan Budi Siti Dewi Agus Jose-Maria Rodrigo Jejomar Althea Chinua Ngozi Chidi Emeka
Amara Ifeoma Obinna Adaeze Kwame Kofi Ama Akosua Abena Yaw Femi Tunde Folake Yetunde Segun Bola Thabo Sipho
Nomsa Lindiwe Themba Zanele Wanjiru Kamau Njoroge Achieng Otieno Juma Amani Zuri Baraka Makena Haile Abebe
Tigist Selam Dawit Mamadou Fatou Ousmane Aminata Ibou Moussa Awa Kahu Aroha Tane Ngaire Lani Keanu Malia
Kaimana Nayeli Itzel Quetzal Inti Killa Ada Agatha Alma Amos Archie Barnaby Basil Beatrice Bertha Blanche
Cecil Cecilia Clara Clarence Clementine Cora Cyril Daisy Dora Edgar Edith Edmund Edna Effie Eleanor Elias
Eliza Ella Elmer Elsie Ernest Esther Ethel Eunice Ezra Fanny Flora Florence Floyd Gertrude Gilbert Gladys
Gordon Hazel Herbert Herman Hilda Homer Horace Howard Hugh Ida Irene Iris Isaac Isabelle Ivy Jasper Josephine
Jude Julian Kurt Lena Leonard Lillian Lionel Louis Louisa Lucas Lucy Luke Lydia Mabel Marcus Marion Martin
Matilda Maud Maurice Maxine Mildred Milton Minnie Miriam Molly Morris Myra Myrtle Nellie Nina Nora Norman
Opal Oswald Owen Pearl Penelope Percy Phoebe Polly Quentin Ray Rex Rita Roland Rose Rosemary Rowan Rufus
Rupert Sadie Sally Sebastian Sheila Sidney Silas Simon Sonia Stanley Stella Sybil Sylvia Tabitha Tess Thelma
Theodore Tobias Toby Trevor Trudy Ulysses Uma Vera Vernon Victor Viola Violet Vivian Wallace Wanda Warren
Wendy Wilbur Wilfred Willa Winifred Winston Yvonne Zelda Zoe
""")

LAST_NAMES = _words("""
Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson
Anderson Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis
Robinson Walker Young Allen King Wright Scott Torres Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera
Campbell Mitchell Carter Roberts Gomez Phillips Evans Turner Diaz Parker Cruz Edwards Collins Reyes Stewart
Morris Morales Murphy Cook Rogers Gutierrez Ortiz Morgan Cooper Peterson Bailey Reed Kelly Howard Ramos Kim
Cox Ward Richardson Watson Brooks Chavez Wood James Bennett Gray Mendoza Ruiz Hughes Price Alvarez Castillo
Sanders Patel Myers Ross Foster Jimenez Powell Jenkins Perry Russell Sullivan Bell Coleman Butler Henderson
Barnes Fisher Vasquez Simmons Romero Jordan Patterson Alexander Hamilton Graham Reynolds Griffin Wallace
Moreno West Cole Hayes Bryant Herrera Gibson Ellis Tran Medina Freeman Wells Webb Simpson Stevens Tucker
Porter Hunter Hicks Crawford Boyd Mason Kennedy Warren Dixon Burns Gordon Shaw Holmes Rice Robertson Hunt
Black Daniels Palmer Mills Nichols Grant Knight Ferguson Stone Hawkins Dunn Perkins Hudson Spencer Gardner
Stephens Payne Pierce Berry Matthews Arnold Wagner Willis Watkins Olson Carroll Duncan Snyder Hart Cunningham
Bradley Lane Andrews Harper Fox Riley Armstrong Carpenter Weaver Greene Lawrence Elliott Sims Austin Peters
Kelley Franklin Lawson Fields Ryan Schmidt Carr Wheeler Chapman Oliver Montgomery Richards Williamson
Johnston Banks Meyer Bishop McCoy Howell Morrison Hansen Garza Harvey Little Burton Stanley George Jacobs
Reid Fuller Lynch Gilbert Garrett Welch Larson Frazier Burke Hanson Mendez Moran Müller Schneider Fischer
Weber Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein Wolf Schröder Neumann Schwarz Zimmermann Braun
Krüger Hofmann Hartmann Lange Krause Lehmann Köhler Maier Kaiser Fuchs Vogel Keller Berger Winkler Roth Beck
Lorenz Baumann Franke Albrecht Schuster Böhm Dubois Durand Leroy Moreau Laurent Lefebvre Roux Fournier Girard
Bonnet Dupont Lambert Fontaine Rousseau Mercier Chevalier Blanchard Gauthier Perrin Marchand Renard Rossi
Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco Bruno Gallo Conti Mancini Costa Giordano
Rizzo Lombardi Moretti Barbieri Fontana Santoro Mariani Rinaldi Caruso Silva Santos Oliveira Souza Pereira
Ferreira Almeida Carvalho Ribeiro Gomes Barbosa Teixeira Fernandes Vieira Moreira Cardoso Nunes Batista
Freitas Navarro Delgado Castro Ortega Rubio Marin Sanz Iglesias Nuñez Vargas Peña Soto Rojas Molina Aguilar
Guerrero Salazar Cortez Quintero Ivanov Petrov Sidorov Smirnov Kuznetsov Popov Volkov Sokolov Lebedev Kozlov
Novikov Morozov Pavlova Orlova Fedorova Shevchenko Kovalenko Bondarenko Tkachenko Nowak Kowalski Wiśniewski
Wójcik Kamiński Lewandowski Zieliński Szymański Dąbrowski Jankowski Novák Svoboda Dvořák Černý Procházka
Horváth Nagy Kovács Szabó Tóth Varga Popescu Ionescu Dumitru Jovanović Petrović Nikolić Marković Đorđević
Kovačević Papadopoulos Georgiou Nikolaidis Andersson Johansson Karlsson Nilsson Eriksson Larsson Olsen Jensen
Nielsen Pedersen Christensen Rasmussen Lindberg Lindgren Bergström Virtanen Korhonen Nieminen Mäkinen O'Brien
O'Connor O'Neill O'Sullivan McCarthy McDonald MacLeod MacDonald McKenzie Gallagher Doyle Byrne Brennan Nolan
Flanagan Davies Llewellyn Pritchard Dijk Vries Jansen Visser Bakker Smit Mulder Ali Khan Ahmed Hussain Malik
Shah Qureshi Siddiqui Chaudhry Butt Mirza Haddad Mansour Khoury Nasser Saleh Aziz Rahman Farouk Al-Sayed
El-Masri Benali Hosseini Ahmadi Karimi Rezaei Yılmaz Demir Çelik Kaya Şahin Öztürk Aydın Cohen Levy Mizrahi
Friedman Katz Goldberg Rosenberg Shapiro Sharma Gupta Singh Kumar Verma Mehta Joshi Iyer Menon Rao Reddy
Chatterjee Banerjee Mukherjee Das Bose Ghosh Kapoor Malhotra Chopra Desai Pillai Agarwal Bhatt Kulkarni
Deshmukh Perera Fernando Jayawardena Zhang Wang Liu Chen Yang Huang Zhao Wu Zhou Xu Sun Zhu Ma Hu Guo Lin Luo
Zheng Liang Xie Tang Feng Deng Xiao Cheng Wong Chan Cheung Lam Ho Ng Tan Lim Goh Ong Sato Suzuki Takahashi
Tanaka Watanabe Ito Yamamoto Nakamura Kobayashi Kato Yoshida Yamada Sasaki Matsumoto Inoue Kimura Shimizu
Hayashi Mori Abe Ikeda Hashimoto Ishikawa Park Choi Jung Kang Cho Yoon Jang Lim Han Seo Shin Kwon Hwang Tran
Pham Hoang Phan Vu Dang Bui Do Ngo Santoso Wijaya Hidayat Suharto Bautista Villanueva Aquino Magsaysay
Adeyemi Adebayo Balogun Eze Nwosu Obi Ogunleye Afolabi Bello Danjuma Okonkwo Nwachukwu Mensah Owusu Boateng
Asante Appiah Osei Agyeman Mwangi Kariuki Ochieng Odhiambo Wambui Kipchoge Cheruiyot Mutua Dlamini Nkosi
Mthembu Khumalo Zulu Ndlovu Moyo Banda Phiri Mbeki Botha Pretorius Tesfaye Bekele Gebre Diallo Traoré Keita
Coulibaly Diop Ndiaye Sow Kamara Conteh Toure Ouattara Tupou Kahananui Waititi Parata Ngata Abbott Ackerman
Aldridge Ashworth Atkinson Barclay Barlow Barrett Bartlett Beaumont Blackwood Blake Bolton Bradshaw Briggs
Buckley Burgess Byron Caldwell Chandler Clarke Clayton Connolly Conway Crane Crosby Curtis Dalton Darwin
Dawson Dickens Drake Dyer Eaton Eliot Emerson Farrell Faulkner Fitzgerald Fleming Fletcher Forster Frost
Galloway Gibbs Gilmore Goodwin Hale Hardy Hastings Hawthorne Higgins Holland Hopkins Huxley Ingram Irving
Jarvis Jennings Keats Kendall Kerr Kingsley Kirk Lamb Lancaster Langley Leighton Lowell Lyons Mackay Maddox
Marlowe Marsh Mayfield Melville Mercer Milne Newman Newton Norris Norton Orwell Osborne Paine Pemberton Pike
Poole Pope Pratt Quinn Radcliffe Ramsey Rhodes Rowe Rutherford Sawyer Sewell Sharp Sheridan Sinclair Slater
Stafford Stark Steele Sterling Sutton Swift Thackeray Thornton Townsend Turing Underwood Vance Vaughn
Wainwright Walsh Walton Wentworth Whitaker Whitman Wilde Winslow Woodward Wyatt Yates Yeats
""")

FAMOUS_CITIES = names("""
London, Paris, Berlin, Madrid, Rome, Vienna, Amsterdam, Brussels, Lisbon, Dublin, Athens, Stockholm, Oslo,
Copenhagen, Helsinki, Warsaw, Prague, Budapest, Moscow, Istanbul, Cairo, Lagos, Nairobi, Johannesburg, Cape
Town, New York, Los Angeles, Chicago, Boston, San Francisco, Washington, Seattle, Miami, Houston, Toronto,
Montreal, Vancouver, Mexico City, Rio de Janeiro, São Paulo, Buenos Aires, Lima, Bogotá, Santiago, Tokyo,
Kyoto, Osaka, Beijing, Shanghai, Hong Kong, Singapore, Seoul, Bangkok, Jakarta, Manila, Delhi, New Delhi,
Mumbai, Kolkata, Karachi, Tehran, Baghdad, Jerusalem, Tel Aviv, Dubai, Sydney, Melbourne, Zurich, Geneva,
Munich, Hamburg, Frankfurt, Barcelona, Milan, Venice, Naples, Edinburgh, Glasgow, Manchester, Liverpool,
Oxford, Cambridge, Las Vegas, San Diego, Philadelphia, Texas, California, Florida
""")

FAMOUS_COUNTRIES = names("""
France, Germany, Spain, Italy, England, Britain, Scotland, Ireland, Wales, Portugal, Greece, Poland, Russia,
Ukraine, Turkey, Egypt, Nigeria, Kenya, South Africa, China, Japan, India, Pakistan, Iran, Iraq, Israel,
Canada, Mexico, Brazil, Argentina, Chile, Australia, New Zealand, United States, United Kingdom, America,
Europe, Asia, Africa, South Korea, North Korea, Switzerland, Austria, Sweden, Norway, Denmark, Finland,
Netherlands, Belgium, USA, UK, U.S.
""")

CITIES = names("""
Lyon, Marseille, Toulouse, Bordeaux, Nantes, Strasbourg, Lille, Nice, Rennes, Grenoble, Dijon, Avignon,
Cannes, Cologne, Stuttgart, Düsseldorf, Leipzig, Dresden, Hanover, Nuremberg, Bremen, Bonn, Heidelberg,
Dortmund, Essen, Freiburg, Mainz, Kiel, Lübeck, Potsdam, Weimar, Salzburg, Graz, Linz, Innsbruck, Basel,
Bern, Lausanne, Lucerne, Lugano, Turin, Florence, Bologna, Genoa, Verona, Pisa, Siena, Palermo, Catania,
Bari, Trieste, Padua, Seville, Valencia, Bilbao, Granada, Málaga, Zaragoza, Toledo, Salamanca, Córdoba,
Porto, Braga, Coimbra, Faro, Antwerp, Ghent, Bruges, Leuven, Rotterdam, The Hague, Utrecht, Eindhoven, Delft,
Leiden, Groningen, Gothenburg, Malmö, Uppsala, Bergen, Trondheim, Stavanger, Tromsø, Aarhus, Odense, Tampere,
Turku, Espoo, Oulu, Reykjavík, Tallinn, Tartu, Riga, Vilnius, Kaunas, Kraków, Gdańsk, Wrocław, Poznań, Łódź,
Lublin, Katowice, Brno, Ostrava, Plzeň, Bratislava, Košice, Debrecen, Szeged, Bucharest, Cluj, Timișoara,
Sofia, Plovdiv, Varna, Belgrade, Novi Sad, Zagreb, Split, Dubrovnik, Ljubljana, Maribor, Sarajevo, Mostar,
Skopje, Tirana, Pristina, Podgorica, Thessaloniki, Patras, Heraklion, Ankara, Izmir, Antalya, Bursa, Adana,
Kyiv, Lviv, Odesa, Kharkiv, Dnipro, Minsk, Gomel, Chișinău, Saint Petersburg, Kazan, Novosibirsk,
Yekaterinburg, Samara, Omsk, Sochi, Vladivostok, Tbilisi, Batumi, Yerevan, Baku, Almaty, Astana, Tashkent,
Samarkand, Bukhara, Bishkek, Dushanbe, Ashgabat, Kabul, Kandahar, Herat, Lahore, Islamabad, Rawalpindi,
Peshawar, Faisalabad, Multan, Quetta, Bangalore, Chennai, Hyderabad, Pune, Ahmedabad, Jaipur, Lucknow,
Kanpur, Nagpur, Indore, Bhopal, Patna, Surat, Kochi, Mysore, Varanasi, Agra, Amritsar, Chandigarh, Goa,
Dhaka, Chittagong, Kathmandu, Pokhara, Thimphu, Colombo, Kandy, Galle, Malé, Yangon, Mandalay, Chiang Mai,
Phuket, Vientiane, Luang Prabang, Phnom Penh, Siem Reap, Hanoi, Ho Chi Minh City, Da Nang, Hue, Kuala Lumpur,
Penang, Johor Bahru, Bandung, Surabaya, Yogyakarta, Denpasar, Medan, Cebu, Davao, Quezon City, Taipei,
Kaohsiung, Taichung, Guangzhou, Shenzhen, Chengdu, Chongqing, Wuhan, Nanjing, Hangzhou, Suzhou, Tianjin,
Xi'an, Harbin, Qingdao, Dalian, Kunming, Xiamen, Macau, Lhasa, Nagoya, Sapporo, Fukuoka, Kobe, Hiroshima,
Sendai, Nagasaki, Yokohama, Kawasaki, Nara, Kanazawa, Busan, Incheon, Daegu, Daejeon, Gwangju, Jeju,
Pyongyang, Ulaanbaatar, Perth, Brisbane, Adelaide, Canberra, Hobart, Darwin, Cairns, Auckland, Wellington,
Christchurch, Dunedin, Queenstown, Suva, Port Moresby, Honolulu, Anchorage, Portland, Sacramento, San Jose,
Oakland, Fresno, Phoenix, Tucson, Albuquerque, Santa Fe, Denver, Boulder, Salt Lake City, Boise, Spokane,
Tacoma, Reno, Dallas, Austin, San Antonio, Fort Worth, El Paso, New Orleans, Baton Rouge, Memphis, Nashville,
Knoxville, Louisville, Cincinnati, Cleveland, Columbus, Dayton, Akron, Detroit, Lansing, Ann Arbor,
Kalamazoo, Flint, Milwaukee, Green Bay, Minneapolis, St. Paul, St. Louis, Kansas City, Omaha, Des Moines,
Tulsa, Oklahoma City, Wichita, Topeka, Sioux Falls, Fargo, Billings, Cheyenne, Indianapolis, Pittsburgh,
Buffalo, Rochester, Syracuse, Albany, Ithaca, Hartford, New Haven, Providence, Newark, Trenton, Baltimore,
Annapolis, Richmond, Norfolk, Raleigh, Durham, Charlotte, Charleston, Savannah, Atlanta, Birmingham, Mobile,
Tampa, Orlando, Jacksonville, Tallahassee, Fort Lauderdale, Ottawa, Quebec City, Halifax, Winnipeg, Calgary,
Edmonton, Regina, Saskatoon, Hamilton, Guadalajara, Monterrey, Tijuana, Puebla, Mérida, Oaxaca, Cancún,
Veracruz, Havana, Kingston, Nassau, San Juan, Santo Domingo, Port-au-Prince, Guatemala City, San Salvador,
Tegucigalpa, Managua, Panama City, Medellín, Cali, Cartagena, Caracas, Maracaibo, Quito, Guayaquil, Cuenca,
Cusco, Arequipa, La Paz, Sucre, Santa Cruz, Asunción, Montevideo, Rosario, Mendoza, Salta, Bariloche,
Valparaíso, Concepción, Brasília, Salvador, Recife, Fortaleza, Belo Horizonte, Curitiba, Porto Alegre,
Manaus, Belém, Alexandria, Giza, Luxor, Aswan, Tunis, Algiers, Oran, Rabat, Casablanca, Marrakesh, Fez,
Tangier, Tripoli, Benghazi, Khartoum, Addis Ababa, Asmara, Mogadishu, Djibouti, Mombasa, Kisumu, Kampala,
Entebbe, Kigali, Bujumbura, Dar es Salaam, Dodoma, Arusha, Zanzibar City, Lusaka, Harare, Bulawayo, Lilongwe,
Maputo, Windhoek, Gaborone, Pretoria, Durban, Bloemfontein, Port Elizabeth, Maseru, Antananarivo, Luanda,
Kinshasa, Brazzaville, Libreville, Douala, Yaoundé, Abuja, Kano, Ibadan, Enugu, Port Harcourt, Benin City,
Accra, Kumasi, Tamale, Abidjan, Yamoussoukro, Monrovia, Freetown, Conakry, Dakar, Bamako, Timbuktu,
Ouagadougou, Niamey, Banjul, Nouakchott, Damascus, Aleppo, Beirut, Amman, Riyadh, Jeddah, Mecca, Medina,
Doha, Manama, Kuwait City, Muscat, Sanaa, Aden, Abu Dhabi, Sharjah, Basra, Mosul, Erbil, Shiraz, Isfahan,
Tabriz, Mashhad, Haifa, Ramallah, Gaza, Nicosia, Valletta, Bath, Bristol, Leeds, Sheffield, York, Nottingham,
Leicester, Coventry, Derby, Brighton, Plymouth, Exeter, Norwich, Southampton, Portsmouth, Cardiff, Swansea,
Belfast, Derry, Cork, Galway, Limerick, Aberdeen, Dundee, Inverness, Stirling, Newcastle, Sunderland,
Middlesbrough, Hull, Canterbury, Winchester, Salisbury, Stratford, Blackpool, Bournemouth, Ipswich, Luton,
Reading, Swindon, Gloucester, Worcester, Shrewsbury, Carlisle, Lancaster
""")

REGIONS = names("""
Albania, Algeria, Angola, Armenia, Azerbaijan, Bahrain, Bangladesh, Barbados, Belarus, Belize, Benin, Bhutan,
Bolivia, Bosnia, Botswana, Bulgaria, Burkina Faso, Burundi, Cambodia, Cameroon, Chad, Colombia, Congo, Costa
Rica, Croatia, Cuba, Cyprus, Czech Republic, Czechia, Dominican Republic, Ecuador, El Salvador, Eritrea,
Estonia, Ethiopia, Fiji, Gabon, Gambia, Georgia, Ghana, Guatemala, Guinea, Guyana, Haiti, Honduras, Hungary,
Iceland, Indonesia, Ivory Coast, Jamaica, Jordan, Kazakhstan, Kosovo, Kuwait, Kyrgyzstan, Laos, Latvia,
Lebanon, Lesotho, Liberia, Libya, Liechtenstein, Lithuania, Luxembourg, Madagascar, Malawi, Malaysia,
Maldives, Mali, Malta, Mauritania, Mauritius, Moldova, Monaco, Mongolia, Montenegro, Morocco, Mozambique,
Myanmar, Namibia, Nepal, Nicaragua, Niger, Oman, Panama, Papua New Guinea, Paraguay, Peru, Philippines,
Puerto Rico, Qatar, Romania, Rwanda, Samoa, Saudi Arabia, Senegal, Serbia, Sierra Leone, Slovakia, Slovenia,
Somalia, Sri Lanka, Sudan, Suriname, Syria, Taiwan, Tajikistan, Tanzania, Thailand, Togo, Tonga, Trinidad,
Tunisia, Turkmenistan, Uganda, United Arab Emirates, Uruguay, Uzbekistan, Vanuatu, Venezuela, Vietnam, Yemen,
Zambia, Zimbabwe, Alabama, Alaska, Arizona, Arkansas, Colorado, Connecticut, Delaware, Hawaii, Idaho,
Illinois, Indiana, Iowa, Kansas, Kentucky, Louisiana, Maine, Maryland, Massachusetts, Michigan, Minnesota,
Mississippi, Missouri, Montana, Nebraska, Nevada, New Hampshire, New Jersey, New Mexico, North Carolina,
North Dakota, Ohio, Oklahoma, Oregon, Pennsylvania, Rhode Island, South Carolina, South Dakota, Tennessee,
Utah, Vermont, Virginia, West Virginia, Wisconsin, Wyoming, Ontario, Quebec, British Columbia, Alberta,
Manitoba, Nova Scotia, Saskatchewan, Newfoundland, Bavaria, Saxony, Hesse, Brandenburg, Westphalia, Tuscany,
Sicily, Sardinia, Lombardy, Piedmont, Umbria, Calabria, Catalonia, Andalusia, Galicia, Basque Country,
Normandy, Brittany, Provence, Burgundy, Alsace, Corsica, Cornwall, Devon, Kent, Sussex, Yorkshire, Norfolk,
Suffolk, Surrey, Essex, Cumbria, Dorset, Punjab, Sindh, Kashmir, Kerala, Gujarat, Rajasthan, Bengal, Tamil
Nadu, Sichuan, Yunnan, Guangdong, Hokkaido, Okinawa, Queensland, Tasmania, Victoria, New South Wales,
Siberia, Crimea, Donbas, Chechnya, Patagonia, Amazonia, Scandinavia, Balkans, Caucasus, Middle East, Latin
America, Central Asia, Southeast Asia, Antarctica, Lapland, Flanders, Bohemia, Transylvania, Anatolia,
Kurdistan, Tibet, Xinjiang, Bali, Java, Sumatra, Borneo, Ibiza, Crete, Mallorca, Madeira, Azores
""")

FEATURES = names("""
Lake Victoria, Lake Geneva, Lake Michigan, Lake Como, Lake Titicaca, Lake Baikal, Mount Everest, Mount Fuji,
Mount Kilimanjaro, Mount Etna, Mont Blanc, Matterhorn, Himalayas, Alps, Andes, Pyrenees, Rocky Mountains,
Carpathians, Sahara, Gobi Desert, Kalahari, Amazon River, Mississippi River, River Thames, Nile, Danube,
Rhine, Seine, Volga, Ganges, Mekong, Yangtze, Zambezi, Black Sea, Red Sea, Baltic Sea, North Sea, Caspian
Sea, Mediterranean, Pacific Ocean, Atlantic Ocean, Indian Ocean, Arctic Ocean, Gulf of Mexico, Bay of Bengal,
English Channel, Suez Canal, Panama Canal, Grand Canyon, Niagara Falls, Victoria Falls, Yellowstone,
Yosemite, Central Park, Hyde Park, Times Square, Brooklyn, Manhattan, Queens, Harlem, Hollywood, Silicon
Valley, Soho, Camden, Kreuzberg, Montmartre, Shibuya, Trafalgar Square, Broadway, Wall Street, Baker Street,
Fifth Avenue, Oxford Street, Long Island, Staten Island, Easter Island, Canary Islands, Galápagos Islands,
Falkland Islands, Cayman Islands, Faroe Islands, Isle of Wight, Isle of Man
""")

FAMOUS_COMPANIES = names("""
Google, Apple, Microsoft, Amazon, Facebook, Meta, Netflix, Tesla, IBM, Intel, Samsung, Sony, Toyota, Honda,
Siemens, BMW, Volkswagen, Nike, Adidas, Disney, Coca-Cola, McDonald's, Walmart, Twitter, YouTube, Uber,
Airbnb, Spotify, Nokia, Deutsche Bank, Goldman Sachs, Boeing, Airbus, Ford, General Motors, Nestlé, Ikea,
Starbucks, Visa, Oracle, GitHub, OpenAI, Nvidia, PayPal, LinkedIn, NASA, FBI, CIA, NATO, UN, EU, BBC, CNN,
United Nations, European Union, World Bank, World Health Organization, Red Cross, Harvard University,
Stanford University, MIT
""")

COMPANIES = names("""
Adobe, Salesforce, SAP, Cisco, Dell, Lenovo, Huawei, Xiaomi, Alibaba, Tencent, Baidu, ByteDance, TikTok,
Snapchat, WhatsApp, Instagram, Slack, Dropbox, Zoom, Shopify, Stripe, Reddit, Pinterest, eBay, Etsy, Lyft,
DoorDash, SpaceX, DeepMind, Palantir, Databricks, Snowflake, MongoDB, GitLab, Mozilla, Canonical, Red Hat,
VMware, Qualcomm, AMD, ARM, TSMC, Broadcom, Texas Instruments, Micron, Ericsson, Philips, Bosch, BASF, Bayer,
Pfizer, Moderna, Novartis, Roche, AstraZeneca, Merck, Sanofi, Johnson & Johnson, GlaxoSmithKline, Unilever,
Procter & Gamble, PepsiCo, Danone, Heineken, Carlsberg, Diageo, Kellogg's, Mars, Ferrero, Lindt, H&M, Zara,
Uniqlo, Gucci, Prada, Chanel, Hermès, Burberry, Rolex, Swatch, L'Oréal, Puma, Reebok, Lego, Nintendo, Sega,
Capcom, Ubisoft, Electronic Arts, Activision, Panasonic, Toshiba, Hitachi, Sharp, Canon, Nikon, Fujitsu,
Mitsubishi, Nissan, Mazda, Subaru, Suzuki, Yamaha, Hyundai, Kia, LG, Renault, Peugeot, Citroën, Fiat,
Ferrari, Lamborghini, Maserati, Porsche, Audi, Mercedes-Benz, Daimler, Volvo, Saab, Scania, Rolls-Royce,
Jaguar, Land Rover, Bentley, Chrysler, Harley-Davidson, Lockheed Martin, Raytheon, Northrop Grumman, General
Electric, Caterpillar, John Deere, 3M, Honeywell, Xerox, Kodak, Hewlett-Packard, Motorola, AT&T, Verizon,
T-Mobile, Vodafone, Orange, Telefónica, BT, Comcast, Warner Bros., Paramount, Universal Pictures, Pixar,
DreamWorks, Time Warner, Reuters, Bloomberg, Associated Press, Der Spiegel, Le Monde, Al Jazeera, Fox News,
NPR, ITV, Sky News, JPMorgan Chase, Morgan Stanley, Citigroup, Wells Fargo, Bank of America, Barclays, HSBC,
Lloyds, UBS, Credit Suisse, BNP Paribas, Société Générale, Santander, ING, Allianz, AXA, Mastercard, American
Express, BlackRock, Vanguard, Berkshire Hathaway, McKinsey, Deloitte, KPMG, PwC, Accenture, Infosys, Wipro,
Tata, Reliance, Shell, BP, ExxonMobil, Chevron, TotalEnergies, Gazprom, Aramco, Petrobras, Equinor, Rio
Tinto, Glencore, ArcelorMittal, ThyssenKrupp, Maersk, FedEx, UPS, DHL, Lufthansa, Ryanair, EasyJet, Emirates,
Qantas, KLM, Air France, British Airways, Delta Air Lines, United Airlines, Tesco, Sainsbury's, Marks &
Spencer, Harrods, Aldi, Lidl, Carrefour, Target, Costco, Home Depot, Best Buy, Wikipedia, Booking.com,
Expedia, Trivago, Zalando, Delivery Hero, Grab, Gojek, Rakuten, SoftBank, Flipkart, Mercado Libre, Embraer,
Vale, Safaricom, MTN, Dangote, Anthropic, Hugging Face, Cloudflare, Zendesk, HubSpot, Twilio, Atlassian,
JetBrains, Duolingo, Coursera, Patreon, Kickstarter, Eventbrite, Yelp, Tinder, Bumble, Twitch, Discord
""")

AGENCIES = names("""
ESA, JAXA, CERN, WHO, UNESCO, UNICEF, IMF, WTO, OECD, OPEC, ASEAN, FIFA, UEFA, IOC, NBA, NFL, NHL, KGB, MI6,
NSA, DARPA, FDA, EPA, IRS, NHS, DVLA, NYPD, LAPD, IAEA, UNHCR, Interpol, Europol, Mossad, Amnesty
International, Greenpeace, Oxfam, Doctors Without Borders, Save the Children, Human Rights Watch, Salvation
Army, European Commission, European Parliament, European Central Bank, International Monetary Fund, World
Trade Organization, African Union, Arab League, Federal Reserve, Supreme Court, Congress, Senate, Parliament,
House of Commons, House of Lords, Pentagon, White House, Kremlin, Bundestag, Knesset, Royal Navy, Royal Air
Force, Labour Party, Conservative Party, Democratic Party, Republican Party, Green Party, Ministry of
Defence, Department of Justice, Department of Energy, Bank of England, Bank of Japan, British Museum, Louvre,
Smithsonian Institution, Royal Society, Max Planck Institute, Institut Pasteur, Tate Modern, Metropolitan
Museum of Art, Royal Opera House, Vienna Philharmonic, Real Madrid, Manchester United, Arsenal, Chelsea,
Juventus, Bayern Munich, Ajax, Los Angeles Lakers, Boston Celtics, Chicago Bulls, New York Yankees, Dallas
Cowboys, Toronto Raptors, Mayo Clinic, Caltech, UCLA, NYU, ETH Zurich, EPFL, Imperial College London, King's
College London, Trinity College, Eton College, Sorbonne, Princeton, Yale, Harvard, Scotland Yard, Coast
Guard, National Guard, Civil Aviation Authority, Food and Drug Administration, Census Bureau
""")

BANDS = names("""
The Rolling Stones, The Who, The Kinks, The Doors, The Clash, The Cure, The Smiths, The Police, The Eagles,
The Byrds, The Temptations, The Supremes, The Ramones, The Pixies, The Strokes, The Killers, The Cranberries,
The Monkees, The Beach Boys, The Animals, The Hollies, The Pogues, The Specials, The Stooges, The Roots, The
Black Keys, The White Stripes, The Chemical Brothers, The Guardian, The Economist, The New York Times, The
Washington Post, The Times
""")

BANDS_PLAIN = names("""
Queen, Led Zeppelin, Pink Floyd, Deep Purple, Black Sabbath, Iron Maiden, Metallica, Nirvana, Pearl Jam,
Radiohead, Coldplay, Oasis, Blur, Genesis, Kraftwerk, Rammstein, Daft Punk, ABBA, Roxette, U2, Fleetwood Mac,
Green Day, Foo Fighters, Arctic Monkeys, Depeche Mode, Pet Shop Boys, Backstreet Boys, Spice Girls, Destiny's
Child, Boney M, Bee Gees
""")

# Words that make the generated organisations.
FIELDS = _words("""
Technology Medicine Science Arts Economics Engineering Law Music Design Physics Education Agriculture Energy
Health Transport Defence Finance Justice Culture Labour Tourism Fisheries Statistics Chemistry Astronomy
Philosophy History
""")
ORG_NOUNS = _words("""
Bank Group Holdings Systems Industries Partners Capital Ventures Motors Airlines Airways Electronics
Pharmaceuticals Foods Insurance Energy Media Records Studios Labs Laboratories Technologies Solutions
Software Networks Logistics Consulting Press Books Brewery Steel Chemicals Robotics Analytics Semiconductors
Telecom Oil Gas Mining Shipping Railways Textiles Foundation Society Association Institute Council Trust
Museum Library Orchestra Theatre Gallery Hotel Academy College School Club United City Rovers Wanderers Union
Party Times Herald Tribune Post Gazette Weekly Hospital Clinic University Church Cathedral Federation League
Alliance Committee Commission Agency Authority Ministry
""")
ORG_ADJECTIVES = _words("""
National International Royal Global United American British European Pacific Atlantic Northern Southern
Eastern Western General Standard Universal First Central Federal Imperial Continental Metropolitan Advanced
Digital Applied Modern Green Blue Red Golden Silver Bright Rapid Smart Open Free New Grand Public Democratic
Social
""")
COMPANY_ENDINGS = _words("Inc Inc. Ltd Ltd. Corp Corp. Corporation LLC GmbH AG plc SA Co.")
CAMEL_LEFT = _words("""
Git Hub Data Cloud Face Link Snap Pay Drop Sound Word Quick Fire Fast Open Deep Blue Red Net Code Soft Life
Health Bio Nano Micro Mega Hyper Auto Robo Sky Star Sun Moon Wind Wave Sea Book Play Work Home Door Food Air
Space Type Mail Chat Doc Note Task Team Zen Flex Info Geo Agri Med Edu Fin Trade Coin Block Chain Pixel Photo
Video Vid Tube
""")
CAMEL_RIGHT = _words("""
Hub Lab Soft Space Book Works Base Bridge Stack Flow Point Path Gate Box Pal Dash Spot Link Cast Wave Mind
Logic Ware Desk Sense Scale Shift Kit Net Map Mix Loop Pay Bank Mart Line Grid Forge Front Bank Sphere Share
Lens Craft Stream
""")
SAINTS = _words("""
Mary John Thomas Mark Luke Peter Paul James George Andrew Bartholomew Jude Michael Anne Joseph Vincent
""")

# Parts of made-up names.
ONSETS = _words("""
b br c ch cl d dr f fr g gh gl gr h j k kh kl kr l m mb n nd ng ny p ph pr qu r s sch sh sk sl sm sp st str
sv t th tr ts v vl w wh x y z zh
""")
# A vowel as often as it stands here.
VOWELS = (*"aaaaaeeeeiiiiooouu", *_words("ai au ea ee ei ia ie io oa oo ou ua y é á ö"))
CODAS = _words("b ck d ff g k l ll m n n n nd ng nt p r r rd rn rt s s ss st t th tz v w x z")
PERSON_ENDINGS = _words("""
son sen sson ov ova ev ova in ina ski ska wicz ić ic escu ez es az ini etti elli oni ard eau mann berg stein
feld er ley ton ham by worth field wood ford man ian yan shvili dze oglu zadeh pour nen uk enko wala kar war
nathan swamy ara moto mura kawa shima yama ada eda gawa wu ng ngo adu aku nwa ola ele chi eze uru anga ani
imi
""")
FIRST_ENDINGS = _words("""
a ia ina ella elle ette ie y o us an en in on ard ert ald win mir slav aj esh it ika ita una ara eth ine iah
iel ael ko mi to ji ka na sha wa we di bo ngozi
""")
PLACE_ENDINGS = _words("""
ton ville burg burgh ford ham shire stead wick by mouth port bridge field land stan grad gorod sk abad pur
nagar istan dorf stadt heim bach hausen berg furt holm sund vik fjord os as polis ia ina ana aga ura ima sawa
awa eke elo anda ara ovo ice any ce aux ac y ey on ano ola ona era iro ito anga asi uma
""")
NOUN_ENDINGS = _words("er ing tion ment ness ity ism ist age ance ship ure le et ow ack ist or ue th")
ADJECTIVE_ENDINGS = _words("y al ous ful less able ive ic ish ed ing ly ant en")
PLACE_HEADS = _words("""
New Port San Santa Saint St. Fort Lake Mount North South East West Upper Lower El La Los Las Cape Rio
""")
PLACE_TAILS = _words("""
City Springs Falls Beach Bay Valley Hills Island Islands Park Heights Creek Harbour River County
""")

HONORIFICS = ("Dr.", "Mr.", "Mrs.", "Ms.", "Prof.", "Dr", "Mr", "Mrs", "Ms")
ROLES = names("""
President, Professor, Chancellor, Captain, Judge, Senator, Governor, Minister, Prime Minister, King, Queen,
Prince, Princess, Detective, Inspector, Sergeant, General, Colonel, Mayor, Coach, Pope, Sir, Lady, Lord,
Uncle, Aunt
""")
MONTHS = _words("January February March April May June July August September October November December")
SHORT_MONTHS = _words("Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
HOLIDAYS = names("Christmas, Easter, Ramadan, Diwali, Thanksgiving, Halloween, Christmas Eve, New Year's Eve")
NATIONALITIES = _words("""
English French German Spanish Italian Russian Chinese Japanese Korean Indian American British Canadian
Mexican Brazilian African European Asian Dutch Swedish Turkish Greek Polish Irish Scottish Welsh Arabic Latin
Swiss Thai Kenyan
""")

# Written with a capital, yet none of the four entities.
CAPITALISED = _words("""
Python JavaScript Rust Go Ruby Perl Haskell Fortran Linux Windows Android Unix Excel PowerPoint
Photoshop LaTeX Kubernetes Docker Bluetooth Wi-Fi Internet Web PDF TV DVD CD CEO CTO AI URL API GPU CPU USB
HTML CSS SQL HTTP TCP JSON XML DNA RNA HIV COVID GPS ATM VIP FAQ OK PhD MBA IQ RAM SSD Mom Mum Mummy Dad
Daddy Grandma Grandpa Granny God Bible Koran Buddhism Islam Christianity Catholic Muslim Jewish Christian
Hindu Buddhist Renaissance Olympics Madam Wikipedia-style T-shirt X-ray iPhone iPad Bitcoin Monopoly Chess
Scrabble Tetris Minecraft Nobel Grammy
""")

# Plain words, by the place they take in a template.
NOUNS = _words("""
time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house
service friend father power hour game line end member law car city community name president team minute idea
kid body information back parent face level office door health person art war history party result change
morning reason research girl guy moment air teacher force education foot boy age policy music market sense
nation plan college interest death experience effect use class control field development role effort rate
heart drug show leader light voice wife police mind price report decision son view relationship town road arm
difference value building action season society tax director position player record paper space ground form
event official matter center couple site project activity star table need court oil situation cost industry
figure street image phone data picture practice piece land product doctor wall patient worker news test movie
north love step baby computer type attention film tree source hair window culture chance brother energy
period course summer plant opportunity term letter condition choice rule daughter south husband floor
campaign material population call economy hospital church risk fire future bank bed bus crime kitchen garden
bread butter cheese coffee tea sugar salt soup apple orange banana lemon potato tomato onion rice meat fish
chicken egg milk wine beer cake chocolate breakfast lunch dinner plate cup glass bottle knife fork spoon
chair desk lamp carpet mirror shelf roof stairs garage fence bridge river lake mountain forest beach island
valley desert field farm village harbour station train plane ship boat bicycle truck wheel engine ticket
passport luggage suitcase map hotel restaurant shop market library museum theatre cinema park zoo dog cat
horse cow sheep pig bird mouse lion tiger bear wolf fox rabbit snake spider bee ant butterfly rose flower
grass leaf root seed stone sand snow rain wind cloud storm sun moon sky ice heat shirt shoe hat coat dress
trousers jacket sock glove scarf umbrella bag wallet watch ring clock camera radio television newspaper
magazine pen pencil notebook envelope stamp box basket key lock button screen keyboard server printer battery
network software code bug file folder message password update version database language grammar sentence
alphabet lesson homework exam degree science physics chemistry biology mathematics philosophy religion poem
novel song guitar piano violin drum concert painting sculpture photograph dance football tennis chess
basketball race medal trophy coach goal match winner loser nurse lawyer engineer farmer baker butcher driver
pilot soldier sailor cook waiter chef painter singer actor writer poet judge thief king queen prince princess
neighbour stranger guest cousin uncle aunt grandfather grandmother nephew niece twin colleague boss manager
secretary customer client visitor tourist passenger citizen voter mayor minister senator army navy weapon
bomb peace treaty border flag election vote debate speech protest strike budget debt loan salary profit loss
share contract deal meeting conference interview deadline schedule appointment holiday weekend birthday
wedding funeral festival ceremony tradition joke lie secret rumour truth dream fear anger joy hope pain fever
cough headache medicine vaccine surgery dentist blood bone skin tooth finger nose ear mouth knee shoulder
algorithm answer argument balance bark cell chain circle cotton current delay detail distance dust earthquake
echo experiment factory frame fuel gap ghost gift gold grain habit height hole honey hunger injury iron jam
journey jungle ladder layer length lesson limit list load luck machine mark mass metal mistake mud nail noise
oven pack pain path pattern pepper pipe planet pocket poison pool pot powder prison prize proof purpose queue
rat rope sail salad scale scene score shade shape shell signal silence silver skill sleep slope smell smile
smoke soap soil sound speed spring square steam steel stick storm straw stream string sweat target taste
temperature thread throat thunder tide tin tongue tool touch tour towel tower toy trade trap treasure trial
trick trip tunnel turn vase vegetable vehicle view virus voyage weather weight wool yard zone
""")
ADJECTIVES = _words("""
good new first last long great little own other old right big high different small large next early young
important few public bad same able late hard major better economic strong possible whole free military true
federal international full special easy clear recent certain personal open red difficult available likely
short single medical current wrong private past foreign fine common poor natural significant similar hot dead
central happy serious ready simple left physical general environmental financial blue democratic dark various
entire close legal religious cold final main green nice huge popular traditional cultural wide busy quiet
loud warm cool dry wet clean dirty empty heavy light soft rough smooth sharp sweet bitter sour fresh rotten
ripe raw cheap expensive rich famous unknown strange normal rare ordinary local rural urban modern ancient
narrow deep shallow thick thin round flat straight broken sick healthy tired hungry thirsty angry sad proud
shy brave lazy clever stupid wise honest polite rude kind cruel gentle careful careless lucky safe dangerous
boring interesting exciting surprising terrible wonderful beautiful ugly pretty white black yellow brown grey
purple pink bright pale slow fast quick sudden gradual constant brief annual daily weekly monthly useful
useless helpful necessary extra missing complete perfect broad tight loose sleepy awake alone afraid glad
sorry sure aware guilty innocent alive fragile solid liquid golden wooden plastic electric digital nuclear
solar global national royal northern southern eastern western upper lower
""")
VERBS = _words("""
said made went took came saw knew got gave found thought told became showed left felt put brought began kept
held wrote stood heard let meant set met ran paid sat spoke lay led read grew lost fell sent built understood
drew broke spent cut rose drove bought wore chose asked worked seemed tried called needed helped talked
turned started played moved liked lived believed happened provided included continued changed watched
followed stopped created allowed added opened walked offered remembered loved considered appeared waited
served died expected stayed reached remained suggested raised passed sold required reported decided pulled
explained carried wondered dropped pushed closed picked cleaned cooked painted repaired washed finished
missed caught threw taught forgot hid rang sang swam woke tore shook noticed ignored avoided counted measured
mixed printed copied tested planned discussed shared stored removed replaced returned described mentioned
preferred enjoyed hated feared hoped wished promised refused agreed argued laughed cried smiled shouted
whispered jumped climbed danced slept ate drank burned froze melted cracked
""")
INFINITIVES = _words("""
be have do say go get make know think take see come want look use find give tell work call try ask need feel
become leave put mean keep let begin help talk turn start show hear play run move like live believe hold
bring happen write provide sit stand lose pay meet include continue set learn change lead understand watch
follow stop create speak read allow add spend grow open walk win offer remember love consider appear buy wait
serve die send expect build stay fall cut reach kill remain suggest raise pass sell require report decide
pull march cook fix clean paint repair wash finish catch throw teach forget hide ring sing swim wake eat
drink burn freeze melt search train bake check sleep share visit
""")
OPENERS = _words("""
Nothing Everything Something Anything Nobody Everyone Someone Anyone He She They We You I It This That These
Those There Here Who What Where When Why How Which My Your His Her Its Our Their Some Any Each Every All Both
Most Many Few Several No Not Never Always Often Sometimes Usually Perhaps Maybe Please Yes Well Oh Also And
But Or So Because If Although Though While Since Until Unless Before After During Despite Without With From
For To In On At By About Over Under Between Through Across Against Behind Beyond Inside Outside Near Is Are
Was Were Do Does Did Have Has Had Can Could Will Would Should Shall Might Must Let Go Stop Look Listen Come
Take Give Make Put Tell Ask Try Keep Open Close Read Write Send Wait Turn Call Only Just Even Still Yet
Already Soon Now Then Once Again Later Today Tonight Meanwhile However Therefore Moreover Instead Otherwise
Finally Recently Suddenly Fortunately Unfortunately Actually Clearly Obviously Apparently Generally
Eventually Good Great Nice Sorry Thanks Hello Hi Dear Welcome Congratulations Happy Two Three Four Five Ten
Hundreds Thousands Millions One First Second Third Last Next Another Other Such More Less Much Whatever
Whenever Wherever Whoever Whose Whether
""")
